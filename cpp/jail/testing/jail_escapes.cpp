// A hostile layer: tries one thing that a layer must not be able to do, and prints what it got: the name of the error, or "reached".
#include <dirent.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/memfd.h>
#include <linux/vm_sockets.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace {

using Arguments = std::vector<std::string>;
constexpr std::size_t kPage = 4096;

// Each gives a value below 0 with errno set, or gets through.
long number(const std::string& text) { return std::strtol(text.c_str(), nullptr, 0); }

long peek(const Arguments& arguments) {
  char byte = 0;
  iovec here{&byte, 1}, there{&byte, 1};
  return ::process_vm_readv(static_cast<pid_t>(number(arguments[0])), &here, 1, &there, 1, 0);
}

long map(int fd, int protection, int flags) {
  void* at = ::mmap(nullptr, kPage, protection, flags, fd, 0);
  return at == MAP_FAILED ? -1 : 0;
}

long make_writable(const Arguments& arguments) {
  void* at = ::mmap(nullptr, kPage, PROT_READ, MAP_SHARED, static_cast<int>(number(arguments[0])), 0);
  if (at == MAP_FAILED) return -1;
  return ::mprotect(at, kPage, PROT_READ | PROT_WRITE);
}

long punch(const Arguments& arguments) {
  void* at = ::mmap(nullptr, kPage, PROT_READ, MAP_SHARED, static_cast<int>(number(arguments[0])), 0);
  if (at == MAP_FAILED) return -1;
  return ::madvise(at, kPage, MADV_REMOVE);
}

// Of all that stands for a descriptor as a path.
long reopen(const Arguments& arguments) {
  for (const char* folder : {"/proc/self/fd/", "/proc/thread-self/fd/", "/proc/1/fd/", "/proc/2/fd/", "/dev/fd/"}) {
    if (::open((folder + arguments[0]).c_str(), O_RDWR) >= 0) return 0;
  }
  const int fd = static_cast<int>(number(arguments[0]));
  if (::openat(fd, "", O_RDWR) >= 0 || ::openat(fd, ".", O_RDWR) >= 0) return 0;
  return ::open(("/proc/self/fd/" + arguments[0]).c_str(), O_RDWR);
}

// MiB that could be written to.
long balloon(int flags) {
  constexpr std::size_t kStep = 1 << 20;
  long got = 0;
  for (;; ++got) {
    void* at = ::mmap(nullptr, kStep, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) break;
    std::memset(at, 1, kStep);
  }
  std::printf("%ld MiB, then ", got);
  return -1;
}

long by_brk(const Arguments&) {
  constexpr std::intptr_t kStep = 1 << 20;
  long got = 0;
  while (::sbrk(kStep) != reinterpret_cast<void*>(-1)) ++got;
  std::printf("%ld MiB, then ", got);
  return -1;
}

long threads(const Arguments&) {
  long got = 0;
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 64 << 10);
  for (;; ++got) {
    pthread_t thread{};
    const int error = ::pthread_create(
        &thread, &small, [](void*) -> void* { return ::pause(), nullptr; }, nullptr);
    if (error != 0) {
      errno = error;
      break;
    }
  }
  std::printf("%ld threads, then ", got);
  return -1;
}

long descriptors(const Arguments&) {
  for (int fd = 0; fd < 4096; ++fd) {
    if (::fcntl(fd, F_GETFD) >= 0) std::printf("%d ", fd);
  }
  return 0;
}

long list(const Arguments& arguments) {
  DIR* const folder = ::opendir(arguments[0].c_str());
  if (folder == nullptr) return -1;
  while (const dirent* entry = ::readdir(folder)) std::printf("%s ", entry->d_name);
  return 0;
}

long who(const Arguments&) {
  std::printf("uid %u euid %u gid %u groups %d pid %d parent %d ", ::getuid(), ::geteuid(), ::getgid(), ::getgroups(0, nullptr), ::getpid(),
              ::getppid());
  return 0;
}

long wait_for_ever(const Arguments&) {
  std::printf("ready\n");
  std::fflush(stdout);
  for (;;) ::pause();
}

long burn(const Arguments&) {
  std::printf("ready\n");
  std::fflush(stdout);
  while (::getppid() >= 0) {
  }
  return 0;
}

long become(const Arguments& arguments) {
  std::string second = arguments[1];
  std::array<char*, 3> argv = {const_cast<char*>(arguments[0].c_str()), second.data(), nullptr};
  return ::execv(argv[0], argv.data());
}

long call(long number_of_call, long a = 0, long b = 0, long c = 0) { return ::syscall(number_of_call, a, b, c); }

#if defined(__x86_64__)
// getpid by the way of 32-bit programs, which a filter of 64-bit calls does not see.
long by_int80(const Arguments&) {
  long result = 20;
  asm volatile("int $0x80" : "+a"(result)::"r8", "r9", "r10", "r11", "memory");
  return result;
}
#endif

long flood(const Arguments&) {
  const std::string line(999, 'x');
  for (int i = 0; i < 5000; ++i) std::printf("%s\n", line.c_str());
  return 0;
}

int flags_of(const Arguments& arguments) { return static_cast<int>(number(arguments[0])); }

const std::map<std::string, std::function<long(const Arguments&)>> kAttempts = {
    {"read", [](const Arguments& a) { return ::open(a[0].c_str(), O_RDONLY); }},
    {"write", [](const Arguments& a) { return ::open(a[0].c_str(), O_WRONLY); }},
    {"create", [](const Arguments& a) { return ::open(a[0].c_str(), O_RDWR | O_CREAT, 0666); }},
    {"temporary", [](const Arguments& a) { return ::open(a[0].c_str(), O_RDWR | O_TMPFILE, 0600); }},
    {"mkdir", [](const Arguments& a) { return ::mkdir(a[0].c_str(), 0777); }},
    {"unlink", [](const Arguments& a) { return ::unlink(a[0].c_str()); }},
    {"symlink", [](const Arguments& a) { return ::symlink("/etc/passwd", a[0].c_str()); }},
    {"chmod", [](const Arguments& a) { return ::chmod(a[0].c_str(), 0777); }},
    {"truncate_path", [](const Arguments& a) { return ::truncate(a[0].c_str(), 0); }},
    {"list", list},
    {"peek", peek},
    {"ptrace", [](const Arguments& a) { return ::ptrace(PTRACE_SEIZE, flags_of(a), nullptr, nullptr); }},
    {"pidfd_getfd", [](const Arguments& a) { return call(SYS_pidfd_getfd, number(a[0])); }},
    {"pidfd_open", [](const Arguments& a) { return call(SYS_pidfd_open, number(a[0])); }},
    {"kcmp", [](const Arguments& a) { return call(SYS_kcmp, number(a[0]), 1); }},
    {"by_handle", [](const Arguments&) { return call(SYS_open_by_handle_at, AT_FDCWD); }},
    {"socket", [](const Arguments& a) { return ::socket(flags_of(a), SOCK_STREAM, 0); }},
    {"socketpair",
     [](const Arguments&) {
       int ends[2];
       return ::socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
     }},
    {"kill", [](const Arguments& a) { return ::kill(static_cast<pid_t>(number(a[0])), SIGTERM); }},
    {"kill_init", [](const Arguments&) { return ::kill(1, SIGKILL), wait_for_ever({}); }},
    {"reopen", reopen},
    {"map_written", [](const Arguments& a) { return map(flags_of(a), PROT_READ | PROT_WRITE, MAP_SHARED); }},
    {"map_read", [](const Arguments& a) { return map(flags_of(a), PROT_READ, MAP_SHARED); }},
    {"make_writable", make_writable},
    {"punch", punch},
    {"pwrite", [](const Arguments& a) { return ::pwrite(flags_of(a), "x", 1, 0); }},
    {"truncate", [](const Arguments& a) { return ::ftruncate(flags_of(a), 0); }},
    {"allocate", [](const Arguments& a) { return ::fallocate(flags_of(a), 0, 0, kPage); }},
    {"seal", [](const Arguments& a) { return ::fcntl(flags_of(a), F_ADD_SEALS, F_SEAL_WRITE); }},
    {"set_owner", [](const Arguments& a) { return ::fcntl(0, F_SETOWN, static_cast<int>(number(a[0]))); }},
    {"mount", [](const Arguments&) { return call(SYS_mount, 0, 0, 0); }},
    {"open_tree", [](const Arguments&) { return call(SYS_open_tree, AT_FDCWD); }},
    {"pivot_root", [](const Arguments&) { return call(SYS_pivot_root); }},
    {"chroot", [](const Arguments&) { return ::chroot("/"); }},
    {"unshare", [](const Arguments& a) { return ::unshare(flags_of(a)); }},
    {"setns", [](const Arguments&) { return ::setns(0, 0); }},
    {"clone", [](const Arguments& a) { return call(SYS_clone, number(a[0]) | SIGCHLD); }},
    {"clone3", [](const Arguments&) { return call(SYS_clone3); }},
    {"fork", [](const Arguments&) { return static_cast<long>(::fork()); }},
    {"vfork", [](const Arguments&) { return call(SYS_vfork); }},
    {"threads", threads},
    {"balloon", [](const Arguments&) { return balloon(MAP_PRIVATE); }},
    {"shared_balloon", [](const Arguments&) { return balloon(MAP_SHARED); }},
    {"brk", by_brk},
    {"memfd", [](const Arguments&) { return ::memfd_create("x", 0); }},
    {"memfd_secret", [](const Arguments&) { return call(SYS_memfd_secret); }},
    {"shmget", [](const Arguments&) { return ::shmget(IPC_PRIVATE, kPage, 0600); }},
    {"mlock", [](const Arguments&) { return ::mlock(&kAttempts, 1); }},
    {"raise_limit",
     [](const Arguments&) {
       const rlimit more{1ull << 40, 1ull << 40};
       return ::setrlimit(RLIMIT_DATA, &more);
     }},
    {"limit_core",
     [](const Arguments&) {
       rlimit core{};
       ::getrlimit(RLIMIT_CORE, &core);
       std::printf("%lu of %lu ", core.rlim_cur, core.rlim_max);
       return 0;
     }},
    {"abort", [](const Arguments&) -> long { std::abort(); }},
    {"exit", [](const Arguments& a) -> long { std::exit(flags_of(a)); }},
    {"userfaultfd", [](const Arguments&) { return call(SYS_userfaultfd); }},
    {"io_uring", [](const Arguments&) { return call(SYS_io_uring_setup, 1); }},
    {"bpf", [](const Arguments&) { return call(SYS_bpf); }},
    {"perf", [](const Arguments&) { return call(SYS_perf_event_open); }},
    {"add_key", [](const Arguments&) { return call(SYS_add_key); }},
    {"keyctl", [](const Arguments&) { return call(SYS_keyctl); }},
    {"request_key", [](const Arguments&) { return call(SYS_request_key); }},
    {"terminal", [](const Arguments&) { return ::ioctl(2, TIOCSTI, "x"); }},
    {"priority", [](const Arguments&) { return ::setpriority(PRIO_PROCESS, 0, -20); }},
    {"realtime",
     [](const Arguments&) {
       const sched_param high{1};
       return ::sched_setscheduler(0, SCHED_FIFO, &high);
     }},
    {"setuid", [](const Arguments&) { return ::setuid(0); }},
    {"capset", [](const Arguments&) { return call(SYS_capset); }},
    {"set_time", [](const Arguments&) { return call(SYS_clock_settime, CLOCK_REALTIME); }},
    {"host_name", [](const Arguments&) { return ::sethostname("x", 1); }},
    {"kernel_log", [](const Arguments&) { return call(SYS_syslog, 3); }},
#if defined(__x86_64__)
    {"int80", by_int80},
    {"x32", [](const Arguments&) { return call(0x40000000L + SYS_getpid); }},
#endif
    {"exec", become},
    {"descriptors", descriptors},
    {"who", who},
    {"wait", wait_for_ever},
    {"burn", burn},
    {"flood", flood},
};

}  // namespace

int main(int argc, char** argv) {
  const auto attempt = kAttempts.find(argc > 1 ? argv[1] : "");
  if (attempt == kAttempts.end()) return 2;
  Arguments arguments(argv + 2, argv + argc);
  errno = 0;
  const long result = attempt->second(arguments);
  std::printf("%s\n", result < 0 ? ::strerrorname_np(errno) : "reached");
  return 0;
}
