#include <fcntl.h>
#include <fmt/format.h>
#include <linux/landlock.h>
#include <sched.h>
#include <seccomp.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "base/error.h"
#include "base/fd.h"
#include "guest/uffd_abi.h"
#include "worker/sandbox.h"

namespace mhv::worker {
namespace {

// ---------------------------------------------------------------- Landlock

// Headers of Debian 12 know ABI 2; these are of ABI 3 to 6 (linux/landlock.h of Linux 6.12).
constexpr std::uint64_t kFsTruncate = 1ull << 14;
constexpr std::uint64_t kFsIoctlDev = 1ull << 15;
constexpr std::uint64_t kNetBindTcp = 1ull << 0;
constexpr std::uint64_t kNetConnectTcp = 1ull << 1;
constexpr std::uint64_t kScopeAbstractUnixSocket = 1ull << 0;
constexpr std::uint64_t kScopeSignal = 1ull << 1;

struct RulesetAttr {
  std::uint64_t fs = 0;
  std::uint64_t net = 0;     // from ABI 4 on
  std::uint64_t scoped = 0;  // from ABI 6 on
};
static_assert(sizeof(RulesetAttr) == 24);

constexpr std::uint64_t kStoreRights = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_WRITE_FILE |
                                       LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                                       LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REFER | kFsTruncate;

RulesetAttr everything(long abi) {
  RulesetAttr attr;
  attr.fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;  // all of ABI 1
  if (abi >= 2) attr.fs |= LANDLOCK_ACCESS_FS_REFER;
  if (abi >= 3) attr.fs |= kFsTruncate;
  if (abi >= 4) attr.net = kNetBindTcp | kNetConnectTcp;
  if (abi >= 5) attr.fs |= kFsIoctlDev;
  if (abi >= 6) attr.scoped = kScopeAbstractUnixSocket | kScopeSignal;
  return attr;
}

std::size_t attr_bytes(long abi) { return abi >= 6 ? 24 : abi >= 4 ? 16 : 8; }

void confine_files(const std::string& store_folder) {
  const Fd folder = Fd::open(store_folder, O_PATH | O_DIRECTORY);
  const long abi = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  if (abi < 1) {
    spdlog::warn(
        "Landlock is not available ({}): this worker is confined by its user and its system call filter alone; use a kernel with "
        "CONFIG_SECURITY_LANDLOCK=y and `landlock` in its lsm= list",
        std::strerror(errno));
    return;
  }
  const RulesetAttr attr = everything(abi);
  const Fd ruleset = Fd::own(static_cast<int>(::syscall(SYS_landlock_create_ruleset, &attr, attr_bytes(abi), 0)));
  if (!ruleset) throw_errno("cannot create the Landlock rules");
  landlock_path_beneath_attr rule{};
  rule.allowed_access = kStoreRights & attr.fs;
  rule.parent_fd = folder.get();
  if (::syscall(SYS_landlock_add_rule, ruleset.get(), LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0) {
    throw_errno("cannot allow " + store_folder + " by Landlock");
  }
  if (::syscall(SYS_landlock_restrict_self, ruleset.get(), 0) != 0) throw_errno("cannot apply the Landlock rules");
}

// ---------------------------------------------------------------- seccomp

constexpr std::array kFiles = {SCMP_SYS(read),
                               SCMP_SYS(readv),
                               SCMP_SYS(pread64),
                               SCMP_SYS(preadv),
                               SCMP_SYS(preadv2),
                               SCMP_SYS(write),
                               SCMP_SYS(writev),
                               SCMP_SYS(pwrite64),
                               SCMP_SYS(pwritev),
                               SCMP_SYS(pwritev2),
                               SCMP_SYS(lseek),
                               SCMP_SYS(open),
                               SCMP_SYS(openat),
                               SCMP_SYS(close),
                               SCMP_SYS(stat),
                               SCMP_SYS(lstat),
                               SCMP_SYS(fstat),
                               SCMP_SYS(newfstatat),
                               SCMP_SYS(statx),
                               SCMP_SYS(access),
                               SCMP_SYS(faccessat),
                               SCMP_SYS(faccessat2),
                               SCMP_SYS(rename),
                               SCMP_SYS(renameat),
                               SCMP_SYS(renameat2),
                               SCMP_SYS(unlink),
                               SCMP_SYS(unlinkat),
                               SCMP_SYS(mkdir),
                               SCMP_SYS(mkdirat),
                               SCMP_SYS(rmdir),
                               SCMP_SYS(getdents64),
                               SCMP_SYS(fsync),
                               SCMP_SYS(fdatasync),
                               SCMP_SYS(sync_file_range),
                               SCMP_SYS(truncate),
                               SCMP_SYS(ftruncate),
                               SCMP_SYS(fallocate),
                               SCMP_SYS(fadvise64),
                               SCMP_SYS(flock),
                               SCMP_SYS(fcntl),
                               SCMP_SYS(fchmod),
                               SCMP_SYS(copy_file_range),
                               SCMP_SYS(sendfile),
                               SCMP_SYS(statfs),
                               SCMP_SYS(fstatfs),
                               SCMP_SYS(readlink),
                               SCMP_SYS(readlinkat),
                               SCMP_SYS(dup),
                               SCMP_SYS(dup2),
                               SCMP_SYS(dup3),
                               SCMP_SYS(memfd_create),
                               SCMP_SYS(umask)};

constexpr std::array kMessages = {SCMP_SYS(sendmsg),         SCMP_SYS(recvmsg),         SCMP_SYS(sendto),        SCMP_SYS(recvfrom),
                                  SCMP_SYS(shutdown),        SCMP_SYS(getsockopt),      SCMP_SYS(poll),          SCMP_SYS(ppoll),
                                  SCMP_SYS(select),          SCMP_SYS(pselect6),        SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl),
                                  SCMP_SYS(epoll_wait),      SCMP_SYS(epoll_pwait),     SCMP_SYS(eventfd2),      SCMP_SYS(timerfd_create),
                                  SCMP_SYS(timerfd_settime), SCMP_SYS(timerfd_gettime), SCMP_SYS(pipe),          SCMP_SYS(pipe2)};

constexpr std::array kProcess = {SCMP_SYS(brk),
                                 SCMP_SYS(munmap),
                                 SCMP_SYS(mremap),
                                 SCMP_SYS(madvise),
                                 SCMP_SYS(msync),
                                 SCMP_SYS(mincore),
                                 SCMP_SYS(futex),
                                 SCMP_SYS(set_robust_list),
                                 SCMP_SYS(get_robust_list),
                                 SCMP_SYS(rseq),
                                 SCMP_SYS(membarrier),
                                 SCMP_SYS(exit),
                                 SCMP_SYS(exit_group),
                                 SCMP_SYS(getpid),
                                 SCMP_SYS(getppid),
                                 SCMP_SYS(gettid),
                                 SCMP_SYS(getuid),
                                 SCMP_SYS(geteuid),
                                 SCMP_SYS(getgid),
                                 SCMP_SYS(getegid),
                                 SCMP_SYS(sched_yield),
                                 SCMP_SYS(sched_getaffinity),
                                 SCMP_SYS(getcpu),
                                 SCMP_SYS(clock_gettime),
                                 SCMP_SYS(clock_getres),
                                 SCMP_SYS(clock_nanosleep),
                                 SCMP_SYS(nanosleep),
                                 SCMP_SYS(gettimeofday),
                                 SCMP_SYS(time),
                                 SCMP_SYS(times),
                                 SCMP_SYS(getrusage),
                                 SCMP_SYS(sysinfo),
                                 SCMP_SYS(uname),
                                 SCMP_SYS(getrandom),
                                 SCMP_SYS(rt_sigaction),
                                 SCMP_SYS(rt_sigprocmask),
                                 SCMP_SYS(rt_sigreturn),
                                 SCMP_SYS(rt_sigtimedwait),
                                 SCMP_SYS(sigaltstack),
                                 SCMP_SYS(restart_syscall)};

// What no worker ever does, whatever fails in it: an intruder at work.
constexpr std::array kFatal = {SCMP_SYS(execve),
                               SCMP_SYS(execveat),
                               SCMP_SYS(ptrace),
                               SCMP_SYS(process_vm_readv),
                               SCMP_SYS(process_vm_writev),
                               SCMP_SYS(socket),
                               SCMP_SYS(pidfd_getfd),
                               SCMP_SYS(open_by_handle_at),
                               SCMP_SYS(mount),
                               SCMP_SYS(umount2),
                               SCMP_SYS(move_mount),
                               SCMP_SYS(fsopen),
                               SCMP_SYS(pivot_root),
                               SCMP_SYS(chroot),
                               SCMP_SYS(setns),
                               SCMP_SYS(unshare),
                               SCMP_SYS(bpf),
                               SCMP_SYS(perf_event_open),
                               SCMP_SYS(io_uring_setup),
                               SCMP_SYS(init_module),
                               SCMP_SYS(finit_module),
                               SCMP_SYS(delete_module),
                               SCMP_SYS(kexec_load),
                               SCMP_SYS(kexec_file_load),
                               SCMP_SYS(reboot),
                               SCMP_SYS(keyctl),
                               SCMP_SYS(add_key),
                               SCMP_SYS(request_key)};

constexpr std::uint64_t kIoctlMask = 0xffffffff;  // the kernel looks at no more
constexpr std::uint64_t kIoctlTypeMask = 0xff00;  // the middle byte of a request names the driver
constexpr std::uint64_t kUffdIoctlType = guest::abi::kUffdApi << 8;

class Filter {
 public:
  Filter() : context_(::seccomp_init(SCMP_ACT_ERRNO(EPERM))) {
    if (context_ == nullptr) fail(-ENOMEM);
    check(::seccomp_attr_set(context_, SCMP_FLTATR_CTL_LOG, 1));
  }
  ~Filter() { ::seccomp_release(context_); }
  Filter(const Filter&) = delete;
  Filter& operator=(const Filter&) = delete;

  template <typename List>
  void add(std::uint32_t action, const List& calls) {
    for (const int call : calls) check(::seccomp_rule_add(context_, action, call, 0));
  }
  void add_when(std::uint32_t action, int call, scmp_arg_cmp condition) {
    check(::seccomp_rule_add_array(context_, action, call, 1, &condition));
  }
  void load() { check(::seccomp_load(context_)); }

 private:
  static void check(int result) {
    if (result != 0) fail(result);
  }
  [[noreturn]] static void fail(int result) {
    throw Error(Code::kUnsupported, fmt::format("cannot install the worker's system call filter: {}", std::strerror(-result)),
                "the kernel needs CONFIG_SECCOMP_FILTER=y");
  }
  scmp_filter_ctx context_;
};

void filter_system_calls() {
  Filter filter;
  filter.add(SCMP_ACT_ALLOW, kFiles);
  filter.add(SCMP_ACT_ALLOW, kMessages);
  filter.add(SCMP_ACT_ALLOW, kProcess);
  filter.add(SCMP_ACT_KILL_PROCESS, kFatal);
  // Threads, never processes. clone3 hides its flags in memory: glibc falls back to clone when it is missing.
  filter.add_when(SCMP_ACT_ALLOW, SCMP_SYS(clone), SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
  filter.add(SCMP_ACT_ERRNO(ENOSYS), std::array{SCMP_SYS(clone3)});
  // What wakes a layer and the worker: two ends that lead nowhere else.
  filter.add_when(SCMP_ACT_ALLOW, SCMP_SYS(socketpair), SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
  // No new executable memory.
  filter.add_when(SCMP_ACT_ALLOW, SCMP_SYS(mmap), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
  filter.add_when(SCMP_ACT_ALLOW, SCMP_SYS(mprotect), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
  // Write tracking: everything a userfaultfd does, and the page map's scan.
  filter.add_when(SCMP_ACT_ALLOW, SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_MASKED_EQ, kIoctlTypeMask, kUffdIoctlType));
  filter.add_when(SCMP_ACT_ALLOW, SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_MASKED_EQ, kIoctlMask, guest::abi::kIoctlPagemapScan));
  // Its own: abort(), thread names and priorities, limits.
  filter.add_when(SCMP_ACT_ALLOW, SCMP_SYS(tgkill), SCMP_A0(SCMP_CMP_EQ, static_cast<scmp_datum_t>(::getpid())));
  filter.add_when(SCMP_ACT_ALLOW, SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
  filter.add_when(SCMP_ACT_ALLOW, SCMP_SYS(sched_setattr), SCMP_A0(SCMP_CMP_EQ, 0));
  filter.add_when(SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), SCMP_A2(SCMP_CMP_EQ, 0));
  filter.load();
}

}  // namespace

void enter_sandbox(const std::string& store_folder) {
  ::tzset();  // log lines go on in local time
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) throw_errno("cannot forbid new privileges");
  confine_files(store_folder);
  filter_system_calls();
}

}  // namespace mhv::worker
