#include "jail/filter_sys.h"

#include <asm/termbits.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/landlock.h>
#include <sched.h>
#include <seccomp.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "base/error.h"
#include "base/fd.h"

namespace mhv::jail {
namespace {

// ---------------------------------------------------------------- Landlock

// Headers of Debian 12 know ABI 2; these are of ABI 3 to 6 (linux/landlock.h of Linux 6.12).
constexpr std::uint64_t kFsTruncate = 1ull << 14;
constexpr std::uint64_t kFsIoctlDev = 1ull << 15;
constexpr std::uint64_t kNetTcp = 3;
constexpr std::uint64_t kScopeAll = 3;

struct Rules {
  std::uint64_t fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;  // all of ABI 1
  std::uint64_t net = 0;                                      // from ABI 4 on
  std::uint64_t scoped = 0;                                   // from ABI 6 on
};
static_assert(sizeof(Rules) == 24);

Rules rules_of(long abi) {
  Rules out;
  if (abi >= 2) out.fs |= LANDLOCK_ACCESS_FS_REFER;
  if (abi >= 3) out.fs |= kFsTruncate;
  if (abi >= 4) out.net = kNetTcp;
  if (abi >= 5) out.fs |= kFsIoctlDev;
  if (abi >= 6) out.scoped = kScopeAll;
  return out;
}

std::size_t rules_bytes(long abi) { return abi >= 6 ? 24 : abi >= 4 ? 16 : 8; }

// ---------------------------------------------------------------- seccomp

constexpr std::array kFiles = {
    SCMP_SYS(read),     SCMP_SYS(readv),      SCMP_SYS(pread64),    SCMP_SYS(preadv),      SCMP_SYS(preadv2), SCMP_SYS(write),
    SCMP_SYS(writev),   SCMP_SYS(pwrite64),   SCMP_SYS(pwritev),    SCMP_SYS(pwritev2),    SCMP_SYS(lseek),   SCMP_SYS(open),
    SCMP_SYS(openat),   SCMP_SYS(close),      SCMP_SYS(stat),       SCMP_SYS(lstat),       SCMP_SYS(fstat),   SCMP_SYS(newfstatat),
    SCMP_SYS(statx),    SCMP_SYS(access),     SCMP_SYS(faccessat),  SCMP_SYS(faccessat2),  SCMP_SYS(statfs),  SCMP_SYS(fstatfs),
    SCMP_SYS(readlink), SCMP_SYS(readlinkat), SCMP_SYS(getdents64), SCMP_SYS(close_range), SCMP_SYS(dup),     SCMP_SYS(dup2),
    SCMP_SYS(dup3),     SCMP_SYS(getcwd),     SCMP_SYS(chdir),      SCMP_SYS(fchdir),      SCMP_SYS(umask),   SCMP_SYS(fadvise64)};

constexpr std::array kWaiting = {
    SCMP_SYS(poll),           SCMP_SYS(ppoll),     SCMP_SYS(select),      SCMP_SYS(pselect6),    SCMP_SYS(epoll_create),
    SCMP_SYS(epoll_create1),  SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait),  SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_pwait2),
    SCMP_SYS(sendto),         SCMP_SYS(recvfrom),  // on the one socket that it is given: what wakes it and the engine
    SCMP_SYS(eventfd2),       SCMP_SYS(pipe),      SCMP_SYS(pipe2),       SCMP_SYS(futex),       SCMP_SYS(timerfd_create),
    SCMP_SYS(nanosleep),      SCMP_SYS(alarm),     SCMP_SYS(sched_yield), SCMP_SYS(pause),       SCMP_SYS(timerfd_settime),
    SCMP_SYS(wait4),          SCMP_SYS(setitimer), SCMP_SYS(getitimer),   SCMP_SYS(waitid),      SCMP_SYS(timerfd_gettime),
    SCMP_SYS(clock_nanosleep)};

constexpr std::array kProcess = {SCMP_SYS(execve),
                                 SCMP_SYS(brk),
                                 SCMP_SYS(mprotect),
                                 SCMP_SYS(munmap),
                                 SCMP_SYS(mremap),
                                 SCMP_SYS(madvise),
                                 SCMP_SYS(set_tid_address),
                                 SCMP_SYS(set_robust_list),
                                 SCMP_SYS(rseq),
                                 SCMP_SYS(arch_prctl),
                                 SCMP_SYS(exit),
                                 SCMP_SYS(exit_group),
                                 SCMP_SYS(getpid),
                                 SCMP_SYS(getppid),
                                 SCMP_SYS(gettid),
                                 SCMP_SYS(getpgrp),
                                 SCMP_SYS(getuid),
                                 SCMP_SYS(geteuid),
                                 SCMP_SYS(getresuid),
                                 SCMP_SYS(getgid),
                                 SCMP_SYS(getegid),
                                 SCMP_SYS(getresgid),
                                 SCMP_SYS(getgroups),
                                 SCMP_SYS(getrlimit),
                                 SCMP_SYS(sched_getaffinity),
                                 SCMP_SYS(getcpu),
                                 SCMP_SYS(clock_gettime),
                                 SCMP_SYS(clock_getres),
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
                                 SCMP_SYS(rt_sigpending),
                                 SCMP_SYS(rt_sigsuspend),
                                 SCMP_SYS(rt_sigtimedwait),
                                 SCMP_SYS(sigaltstack),
                                 SCMP_SYS(restart_syscall),
                                 SCMP_SYS(kill),  // of its own pid namespace, in a process group of its own
                                 SCMP_SYS(tkill),
                                 SCMP_SYS(tgkill)};

// What no runtime asks for on its way, as some do for socket() or io_uring.
constexpr std::array kFatal = {SCMP_SYS(ptrace),
                               SCMP_SYS(process_vm_readv),
                               SCMP_SYS(process_vm_writev),
                               SCMP_SYS(process_madvise),
                               SCMP_SYS(kcmp),
                               SCMP_SYS(pidfd_getfd),
                               SCMP_SYS(open_by_handle_at),
                               SCMP_SYS(name_to_handle_at),
                               SCMP_SYS(mount),
                               SCMP_SYS(umount2),
                               SCMP_SYS(mount_setattr),
                               SCMP_SYS(move_mount),
                               SCMP_SYS(open_tree),
                               SCMP_SYS(fsopen),
                               SCMP_SYS(fsmount),
                               SCMP_SYS(fspick),
                               SCMP_SYS(pivot_root),
                               SCMP_SYS(chroot),
                               SCMP_SYS(setns),
                               SCMP_SYS(unshare),
                               SCMP_SYS(userfaultfd),
                               SCMP_SYS(bpf),
                               SCMP_SYS(perf_event_open),
                               SCMP_SYS(init_module),
                               SCMP_SYS(finit_module),
                               SCMP_SYS(delete_module),
                               SCMP_SYS(kexec_load),
                               SCMP_SYS(kexec_file_load),
                               SCMP_SYS(reboot),
                               SCMP_SYS(swapon),
                               SCMP_SYS(swapoff),
                               SCMP_SYS(acct),
                               SCMP_SYS(iopl),
                               SCMP_SYS(ioperm),
                               SCMP_SYS(keyctl),
                               SCMP_SYS(add_key),
                               SCMP_SYS(request_key)};

constexpr std::array kFcntl = {F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GET_SEALS};
constexpr std::array kIoctl = {FIONREAD, FIONBIO, FIOCLEX, FIONCLEX};
constexpr std::uint64_t k32Bits = 0xffffffff;  // the kernel looks at no more of these arguments
constexpr std::uint64_t kNamespaces =
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

class Filter {
 public:
  Filter() : context_(::seccomp_init(SCMP_ACT_ERRNO(EPERM))) {
    if (context_ == nullptr) fail(-ENOMEM);
    check(::seccomp_attr_set(context_, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS));
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
    throw Error(Code::kUnsupported, fmt::format("cannot install the layer's system call filter: {}", std::strerror(-result)),
                "the kernel needs CONFIG_SECCOMP_FILTER=y");
  }
  scmp_filter_ctx context_;
};

}  // namespace

void confine_files() {
  const long abi = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  if (abi < 1) {
    spdlog::warn("Landlock is not available ({}): this layer is confined by its namespaces and its system call filter",
                 std::strerror(errno));
    return;
  }
  const Rules rules = rules_of(abi);
  const Fd ruleset = Fd::own(static_cast<int>(::syscall(SYS_landlock_create_ruleset, &rules, rules_bytes(abi), 0)));
  if (!ruleset) throw_errno("cannot create the Landlock rules");
  const Fd root = Fd::open("/", O_PATH | O_DIRECTORY);
  landlock_path_beneath_attr beneath{};
  beneath.allowed_access = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_EXECUTE;
  beneath.parent_fd = root.get();
  if (::syscall(SYS_landlock_add_rule, ruleset.get(), LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) != 0)
    throw_errno("cannot add a Landlock rule");
  if (::syscall(SYS_landlock_restrict_self, ruleset.get(), 0) != 0) throw_errno("cannot apply the Landlock rules");
}

void filter_system_calls(bool machine) {
  Filter filter;
  filter.add(SCMP_ACT_ALLOW, kFiles);
  filter.add(SCMP_ACT_ALLOW, kWaiting);
  filter.add(SCMP_ACT_ALLOW, kProcess);
  filter.add(SCMP_ACT_KILL_PROCESS, kFatal);
  if (machine) filter.add(SCMP_ACT_ALLOW, std::array{SCMP_SYS(signalfd4)});
  // clone3 hides its flags in memory: glibc falls back to clone when it is missing.
  filter.add_when(SCMP_ACT_ALLOW, SCMP_SYS(clone), SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD | kNamespaces, CLONE_THREAD));
  filter.add(SCMP_ACT_ERRNO(ENOSYS), std::array{SCMP_SYS(clone3)});
  // Files and private memory. Shared memory without a file is what RLIMIT_DATA does not count.
  filter.add_when(SCMP_ACT_ALLOW, SCMP_SYS(mmap), SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS, 0));
  filter.add_when(SCMP_ACT_ALLOW, SCMP_SYS(mmap), SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_TYPE, MAP_PRIVATE));
  for (const int command : kFcntl) {
    filter.add_when(SCMP_ACT_ALLOW, SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_MASKED_EQ, k32Bits, static_cast<scmp_datum_t>(command)));
  }
  for (const unsigned long request : kIoctl) {
    filter.add_when(SCMP_ACT_ALLOW, SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_MASKED_EQ, k32Bits, request));
  }
  // isatty(): no, it is none.
  filter.add_when(SCMP_ACT_ERRNO(ENOTTY), SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_MASKED_EQ, k32Bits, TCGETS));
  filter.add_when(SCMP_ACT_ALLOW, SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
  filter.add_when(SCMP_ACT_ALLOW, SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_GET_NAME));
  filter.add_when(SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), SCMP_A2(SCMP_CMP_EQ, 0));
  filter.load();
}

}  // namespace mhv::jail
