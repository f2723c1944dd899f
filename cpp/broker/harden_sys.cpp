#include <fmt/format.h>
#include <linux/capability.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <memory>

#include "base/error.h"
#include "broker/harden.h"

namespace mhv::broker {
namespace {

void drop_capabilities(const std::vector<unsigned>& kept) {
  std::array<std::uint32_t, 2> keep{};
  for (const unsigned cap : kept) keep[cap / 32] |= 1u << (cap % 32);
  for (unsigned cap = 0; ::prctl(PR_CAPBSET_READ, cap) >= 0; ++cap) {
    if ((keep[cap / 32] >> (cap % 32) & 1) != 0) continue;
    if (::prctl(PR_CAPBSET_DROP, cap) != 0) throw_errno(fmt::format("cannot drop capability {}", cap));
  }
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> data{};
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = {keep[i], keep[i], 0};
  if (::syscall(SYS_capset, &header, data.data()) != 0) {
    throw Error(Code::kPermission, "cannot keep the capabilities that are needed",
                "run it as root, in the host's own user namespace, with what its systemd unit names");
  }
}

// Memory, threads, clocks, files, sockets, and descriptors of a process.
constexpr std::array kCommon = {SCMP_SYS(brk),
                                SCMP_SYS(mmap),
                                SCMP_SYS(munmap),
                                SCMP_SYS(mprotect),
                                SCMP_SYS(mremap),
                                SCMP_SYS(madvise),
                                SCMP_SYS(futex),
                                SCMP_SYS(clone),
                                SCMP_SYS(clone3),
                                SCMP_SYS(set_robust_list),
                                SCMP_SYS(set_tid_address),
                                SCMP_SYS(rseq),
                                SCMP_SYS(exit),
                                SCMP_SYS(exit_group),
                                SCMP_SYS(gettid),
                                SCMP_SYS(getpid),
                                SCMP_SYS(tgkill),
                                SCMP_SYS(rt_sigaction),
                                SCMP_SYS(rt_sigprocmask),
                                SCMP_SYS(rt_sigreturn),
                                SCMP_SYS(sigaltstack),
                                SCMP_SYS(sched_yield),
                                SCMP_SYS(sched_getaffinity),
                                SCMP_SYS(clock_gettime),
                                SCMP_SYS(clock_nanosleep),
                                SCMP_SYS(nanosleep),
                                SCMP_SYS(gettimeofday),
                                SCMP_SYS(getrandom),
                                SCMP_SYS(restart_syscall),
                                SCMP_SYS(read),
                                SCMP_SYS(write),
                                SCMP_SYS(writev),
                                SCMP_SYS(close),
                                SCMP_SYS(fstat),
                                SCMP_SYS(stat),
                                SCMP_SYS(newfstatat),
                                SCMP_SYS(lseek),
                                SCMP_SYS(fcntl),
                                SCMP_SYS(poll),
                                SCMP_SYS(ppoll),
                                SCMP_SYS(pipe2),
                                SCMP_SYS(openat),
                                SCMP_SYS(openat2),
                                SCMP_SYS(readlink),
                                SCMP_SYS(readlinkat),
                                SCMP_SYS(unlink),
                                SCMP_SYS(connect),
                                SCMP_SYS(accept4),
                                SCMP_SYS(sendmsg),
                                SCMP_SYS(recvmsg),
                                SCMP_SYS(getsockopt),
                                SCMP_SYS(shutdown),
                                SCMP_SYS(pidfd_open),
                                SCMP_SYS(pidfd_getfd)};

void filter_system_calls(const Needs& needs) {
  const std::unique_ptr<void, void (*)(void*)> filter(::seccomp_init(SCMP_ACT_ERRNO(EPERM)), &::seccomp_release);
  if (!filter) throw Error(Code::kInternal, "cannot create the system call filter");
  int error = 0;
  for (const int call : kCommon) {
    if (error == 0) error = ::seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 0);
  }
  for (const int call : needs.calls) {
    if (error == 0) error = ::seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 0);
  }
  std::vector<CallWith> with = needs.calls_with;
  with.push_back({SCMP_SYS(socket), 0, AF_UNIX});
  for (const CallWith& rule : with) {
    const scmp_arg_cmp value{rule.argument, SCMP_CMP_EQ, rule.value, 0};
    if (error == 0) error = ::seccomp_rule_add_array(filter.get(), SCMP_ACT_ALLOW, rule.call, 1, &value);
  }
  for (const int call : {SCMP_SYS(execve), SCMP_SYS(execveat)}) {
    if (error == 0) error = ::seccomp_rule_add(filter.get(), SCMP_ACT_KILL_PROCESS, call, 0);
  }
  if (error == 0) error = ::seccomp_load(filter.get());
  if (error != 0) {
    throw Error(Code::kUnsupported, fmt::format("cannot install the system call filter (error {})", -error),
                "the kernel needs CONFIG_SECCOMP_FILTER");
  }
}

}  // namespace

Needs broker_needs() {
  constexpr unsigned kCapCheckpointRestore = 40;  // Linux 5.9; opens /proc/PID/map_files without CAP_SYS_ADMIN
  return {{CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_SYS_PTRACE, kCapCheckpointRestore},
          {SCMP_SYS(fork), SCMP_SYS(vfork), SCMP_SYS(wait4), SCMP_SYS(ptrace), SCMP_SYS(fchmod)},
          {}};
}

void harden(const Needs& needs) {
  drop_capabilities(needs.capabilities);
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) throw_errno("cannot forbid new privileges");
  filter_system_calls(needs);
}

}  // namespace mhv::broker
