// Order of things in one attempt; every way out passes through ~Stopped, which restores and detaches:
//
//   SEIZE -> INTERRUPT -> wait for the stop -> save registers -> behind a `syscall`? -> set registers -> SINGLESTEP
//         -> wait for the step's SIGTRAP -> read rax -> restore registers -> DETACH
//
// Both stops happen inside the kernel's signal handling, which on the way out restarts an interrupted system call by what rax and
// orig_rax say (-ERESTARTSYS and its kin): restoring both is all that takes. While our own call runs orig_rax is -1, so that
// nothing is restarted then.
//
// Signals of QEMU that show up meanwhile are never lost: before our call ran, everything is restored and the signal delivered
// with the detach (then another attempt); after it ran, the step's SIGTRAP is still pending and would kill QEMU, so the signal is
// kept until the SIGTRAP has been taken off, and delivered with the detach.
//
// An argument that is a structure stands on the thread's stack, below what its red zone may hold: nobody's memory.
//
// Everything between fork() and _exit() allocates nothing, throws nothing and takes no lock.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/ioctl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "base/error.h"
#include "broker/inject.h"

#if !defined(__x86_64__)
#error "mhv-broker sets registers of x86-64; other processors need their own inject_sys.cpp"
#endif

namespace mhv::broker {
namespace {

constexpr std::int64_t kUffdDeadlineNs = 2'000'000'000;
constexpr std::int64_t kClockDeadlineNs = 100'000'000;  // what is not given back now is with the next pause
constexpr std::int64_t kStopDeadlineNs = 500'000'000;   // a thread in uninterruptible sleep does not stop
constexpr long kStopPollNs = 20'000;
constexpr long kRetryPauseNs = 200'000;
constexpr std::uint16_t kSyscallInsn = 0x050f;  // 0f 05
constexpr std::uint64_t kUserCode64 = 0x33;
constexpr std::uint64_t kUffdIocNew = _IO(0xAA, 0x00);  // USERFAULTFD_IOC_NEW of Linux 6.1, missing in older headers
static_assert(kUffdIocNew == 0xAA00);
static_assert(sizeof(kvm_clock_data) == 48 && offsetof(kvm_clock_data, realtime) == 16);
static_assert(KVM_GET_CLOCK == 0x8030ae7c && KVM_SET_CLOCK == 0x4030ae7b);
constexpr std::uint64_t kRedZone = 128;
constexpr std::int64_t kTooLittleNs = 50'000;  // to be given back: as much as the measurement may be wrong

enum class Outcome : std::int32_t { kDone, kAgain, kGone, kNoStop, kStoppedBySignal, kNotTraceable, kNot64Bit, kRefused, kFailed };

struct Result {
  Outcome outcome = Outcome::kFailed;
  std::int32_t value = 0;  // kDone: the descriptor; kRefused, kFailed, kNotTraceable: errno
  std::uint32_t attempts = 0;
  KeptClock clock{};
};

std::int64_t now_ns(clockid_t clock = CLOCK_MONOTONIC) {
  timespec t{};
  ::clock_gettime(clock, &t);
  return static_cast<std::int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

void pause_ns(long ns) {
  const timespec t{0, ns};
  ::nanosleep(&t, nullptr);
}

// A thread that we trace, from SEIZE on. The destructor restores its registers and lets it go, whatever happened.
class Stopped {
 public:
  explicit Stopped(pid_t pid) : pid_(pid) {}
  Stopped(const Stopped&) = delete;
  Stopped& operator=(const Stopped&) = delete;
  ~Stopped() {
    if (!stopped_) return;  // gone, or it never stopped: this process's end detaches it
    if (changed_) ::ptrace(PTRACE_SETREGS, pid_, nullptr, &saved_);
    if (held_ != 0) ::ptrace(PTRACE_SETSIGINFO, pid_, nullptr, &held_info_);
    ::ptrace(PTRACE_DETACH, pid_, nullptr, static_cast<std::uintptr_t>(signal_ != 0 ? signal_ : held_));
  }

  enum class Stop { kEvent, kSignal, kGone, kNever };
  // Waits for the next stop. `deadline` 0: without end (the thread is on its way already).
  Stop wait(std::int64_t deadline) {
    stopped_ = false;
    signal_ = 0;
    for (;;) {
      int status = 0;
      const pid_t n = ::waitpid(pid_, &status, deadline != 0 ? __WALL | WNOHANG : __WALL);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return Stop::kGone;
      if (n == 0) {
        if (now_ns() > deadline) return Stop::kNever;
        pause_ns(kStopPollNs);
        continue;
      }
      if (!WIFSTOPPED(status)) return Stop::kGone;
      stopped_ = true;
      stop_signal_ = WSTOPSIG(status);
      if (status >> 16 == PTRACE_EVENT_STOP) return Stop::kEvent;
      signal_ = stop_signal_;  // delivered with the next resume, unless it is taken off
      return Stop::kSignal;
    }
  }
  int stop_signal() const { return stop_signal_; }
  void take_off_signal() { signal_ = 0; }
  // Keeps the present signal for the detach; a second one goes back into the thread's queue.
  void hold_signal() {
    if (held_ != 0) {
      ::syscall(SYS_tgkill, pid_, pid_, signal_);
    } else if (::ptrace(PTRACE_GETSIGINFO, pid_, nullptr, &held_info_) == 0) {
      held_ = signal_;
    }
    signal_ = 0;
  }
  bool resume(bool step) {
    if (::ptrace(step ? PTRACE_SINGLESTEP : PTRACE_CONT, pid_, nullptr, static_cast<std::uintptr_t>(signal_)) != 0) return false;
    signal_ = 0;
    return true;
  }

  bool save() { return ::ptrace(PTRACE_GETREGS, pid_, nullptr, &saved_) == 0; }
  const user_regs_struct& saved() const { return saved_; }
  bool registers(user_regs_struct* regs) { return ::ptrace(PTRACE_GETREGS, pid_, nullptr, regs) == 0; }
  bool change(user_regs_struct regs) {
    changed_ = true;
    return ::ptrace(PTRACE_SETREGS, pid_, nullptr, &regs) == 0;
  }
  template <typename T>
  bool write(std::uint64_t place, const T& value) {
    static_assert(sizeof(T) % sizeof(long) == 0);
    for (std::size_t at = 0; at < sizeof(T); at += sizeof(long)) {
      long word = 0;
      std::memcpy(&word, reinterpret_cast<const char*>(&value) + at, sizeof word);
      if (::ptrace(PTRACE_POKEDATA, pid_, place + at, word) != 0) return false;
    }
    return true;
  }
  template <typename T>
  bool read(std::uint64_t place, T& value) {
    for (std::size_t at = 0; at < sizeof(T); at += sizeof(long)) {
      errno = 0;
      const long word = ::ptrace(PTRACE_PEEKDATA, pid_, place + at, nullptr);
      if (errno != 0) return false;
      std::memcpy(reinterpret_cast<char*>(&value) + at, &word, sizeof word);
    }
    return true;
  }
  bool behind_syscall() const {
    if (static_cast<std::int64_t>(saved_.orig_rax) < 0) return false;
    errno = 0;
    const long text = ::ptrace(PTRACE_PEEKTEXT, pid_, saved_.rip - 2, nullptr);
    return errno == 0 && static_cast<std::uint16_t>(text & 0xffff) == kSyscallInsn;
  }

 private:
  const pid_t pid_;
  bool stopped_ = false;
  bool changed_ = false;
  int stop_signal_ = 0;
  int signal_ = 0;  // of the present signal-delivery stop
  int held_ = 0;
  siginfo_t held_info_{};
  user_regs_struct saved_{};
};

Result failed(int error) { return {error == ESRCH ? Outcome::kGone : Outcome::kFailed, error}; }

// From INTERRUPT to a thread that stands where we want it.
Result bring_to_stop(Stopped& thread, std::int64_t deadline) {
  for (;;) {
    switch (thread.wait(deadline)) {
      case Stopped::Stop::kGone: return {Outcome::kGone, 0, 0};
      case Stopped::Stop::kNever: return {Outcome::kNoStop, 0, 0};
      case Stopped::Stop::kSignal:
        if (!thread.resume(false)) return failed(errno);  // delivers it; our interrupt is still pending
        continue;
      case Stopped::Stop::kEvent: break;
    }
    if (thread.stop_signal() != SIGTRAP) return {Outcome::kStoppedBySignal, thread.stop_signal(), 0};
    if (!thread.save()) return failed(errno);
    if (thread.saved().cs != kUserCode64) return {Outcome::kNot64Bit, 0, 0};
    return {thread.behind_syscall() ? Outcome::kDone : Outcome::kAgain, 0, 0};
  }
}

Result run_ioctl(Stopped& thread, int fd, std::uint64_t request, std::uint64_t argument) {
  user_regs_struct regs = thread.saved();
  regs.rip -= 2;
  regs.rax = SYS_ioctl;
  regs.orig_rax = ~0ull;
  regs.rdi = static_cast<unsigned>(fd);
  regs.rsi = request;
  regs.rdx = argument;
  if (!thread.change(regs)) return failed(errno);
  if (!thread.resume(true)) return failed(errno);
  for (;;) {
    const Stopped::Stop stop = thread.wait(0);
    if (stop == Stopped::Stop::kGone || stop == Stopped::Stop::kNever) return {Outcome::kGone, 0, 0};
    if (!thread.registers(&regs)) return failed(errno);
    const bool ran = regs.rip == thread.saved().rip;
    if (!ran) return {Outcome::kAgain, 0, 0};
    if (stop == Stopped::Stop::kSignal && thread.stop_signal() == SIGTRAP) break;
    if (stop == Stopped::Stop::kSignal) thread.hold_signal();
    if (!thread.resume(true)) return failed(errno);  // no instruction runs: the SIGTRAP is pending
  }
  thread.take_off_signal();
  const auto value = static_cast<std::int64_t>(regs.rax);
  if (value < 0) return {Outcome::kRefused, static_cast<std::int32_t>(-value), 0};
  return {Outcome::kDone, static_cast<std::int32_t>(value), 0};
}

Result keep_clock_of(Stopped& thread, int vm_fd, const ClockMoment& since, std::uint64_t lost_ns_max) {
  const std::uint64_t place = (thread.saved().rsp - kRedZone - sizeof(kvm_clock_data)) & ~std::uint64_t{15};
  kvm_clock_data data{};
  if (!thread.write(place, data)) return failed(errno);
  const std::int64_t before = now_ns(CLOCK_MONOTONIC_RAW);
  Result result = run_ioctl(thread, vm_fd, KVM_GET_CLOCK, place);
  if (result.outcome != Outcome::kDone) return result;
  const std::int64_t host = before + (now_ns(CLOCK_MONOTONIC_RAW) - before) / 2;
  if (!thread.read(place, data)) return failed(errno);
  result.clock.since = {data.clock, host};
  if (since.host_ns == 0) return result;
  const std::int64_t lost = host - since.host_ns - static_cast<std::int64_t>(data.clock - since.guest_ns);
  if (lost < -kTooLittleNs || lost > static_cast<std::int64_t>(lost_ns_max)) return result;
  result.clock.since = since;  // so that errors do not add up
  if (lost < kTooLittleNs) return result;
  data.clock += static_cast<std::uint64_t>(lost);
  data.flags &= KVM_CLOCK_REALTIME;  // where it is there, the kernel adds the time until now by itself
  if (data.flags == 0) data.clock += static_cast<std::uint64_t>(now_ns(CLOCK_MONOTONIC_RAW) - host);
  if (!thread.write(place, data)) return failed(errno);
  const KeptClock kept{since, static_cast<std::uint64_t>(lost)};
  result = run_ioctl(thread, vm_fd, KVM_SET_CLOCK, place);
  result.clock = kept;
  return result;
}

// `work`: what is done with the stopped thread.
template <typename Work>
Result attempt(pid_t pid, const Work& work) {
  if (::ptrace(PTRACE_SEIZE, pid, nullptr, nullptr) != 0) {
    return {errno == ESRCH ? Outcome::kGone : Outcome::kNotTraceable, errno, 0};
  }
  Stopped thread(pid);
  if (::ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr) != 0) return failed(errno);
  const Result stop = bring_to_stop(thread, now_ns() + kStopDeadlineNs);
  return stop.outcome == Outcome::kDone ? work(thread) : stop;
}

template <typename Work>
Result attempts_until(std::int64_t deadline, pid_t pid, const Work& work) {
  for (std::uint32_t count = 1;; ++count) {
    Result result = attempt(pid, work);
    result.attempts = count;
    if (result.outcome != Outcome::kAgain || now_ns() > deadline) return result;
    pause_ns(kRetryPauseNs);
  }
}

template <typename Work>
Result run_in_child(std::int64_t time_ns, pid_t pid, const Work& work) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw_errno("cannot create a pipe");
  const Fd reader = Fd::own(ends[0]);
  Fd writer = Fd::own(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) throw_errno("cannot start the injecting process");
  if (child == 0) {
    const Result result = attempts_until(now_ns() + time_ns, pid, work);
    const ssize_t written = ::write(writer.get(), &result, sizeof result);
    ::_exit(written == sizeof result ? 0 : 1);
  }
  writer.close();
  Result result;
  ssize_t n = 0;
  do {
    n = ::read(reader.get(), &result, sizeof result);
  } while (n < 0 && errno == EINTR);
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (n != sizeof result) throw Error(Code::kInternal, "the injecting process ended without a result", "see dmesg; try again");
  return result;
}

// `call`: for the message.
void check(const Result& result, const QemuProcess& process, const char* call) {
  // A process that is just ending refuses to be traced in several ways.
  if (result.outcome != Outcome::kDone && !process.alive())
    throw Error(Code::kGone, fmt::format("QEMU process {} has ended", process.pid()));
  const std::string who = fmt::format("QEMU process {}", process.pid());
  switch (result.outcome) {
    case Outcome::kDone: return;
    case Outcome::kGone: throw Error(Code::kGone, who + " has ended");
    case Outcome::kAgain:
      throw Error(Code::kBusy, fmt::format("{} was in no system call, or busy with signals, in {} looks", who, result.attempts),
                  "try again when it is less busy");
    case Outcome::kNoStop:
      throw Error(Code::kBusy, who + " could not be stopped: its main thread waits for the host (disk or network storage)",
                  "try again when its storage answers");
    case Outcome::kStoppedBySignal: throw Error(Code::kBusy, who + " was stopped by a signal", "send it SIGCONT, then try again");
    case Outcome::kNotTraceable:
      throw Error(Code::kBusy, fmt::format("{} cannot be traced: {}", who, std::strerror(result.value)),
                  "end other tracers (gdb, strace) of it; kernel.yama.ptrace_scope must be below 3, and AppArmor or SELinux must let "
                  "mhv-broker trace it");
    case Outcome::kNot64Bit: throw Error(Code::kUnsupported, who + " is no 64-bit program", "use the x86-64 build of QEMU");
    case Outcome::kRefused:
      throw Error(Code::kUnsupported, fmt::format("{} was refused inside {}: {}", call, who, std::strerror(result.value)),
                  "its seccomp profile must allow ioctl (stock `-sandbox on` does)");
    case Outcome::kFailed: break;
  }
  throw Error(Code::kInternal, fmt::format("ptrace of {} failed: {}", who, std::strerror(result.value)));
}

}  // namespace

Injection inject_uffd(const QemuProcess& process, int device_fd) {
  const auto work = [&](Stopped& thread) {
    return run_ioctl(thread, device_fd, kUffdIocNew, O_CLOEXEC | O_NONBLOCK);  // not UFFD_USER_MODE_ONLY: writes by the kernel count too
  };
  const Result result = run_in_child(kUffdDeadlineNs, process.pid(), work);
  check(result, process, "USERFAULTFD_IOC_NEW");
  return {result.value, result.attempts};
}

KeptClock keep_clock(const QemuProcess& process, int vm_fd, const ClockMoment& since, std::uint64_t lost_ns_max) {
  const std::uint64_t lost_max = std::min<std::uint64_t>(lost_ns_max, INT64_MAX);
  const auto work = [&](Stopped& thread) { return keep_clock_of(thread, vm_fd, since, lost_max); };
  const Result result = run_in_child(kClockDeadlineNs, process.pid(), work);
  check(result, process, "KVM_GET_CLOCK or KVM_SET_CLOCK");
  return result.clock;
}

}  // namespace mhv::broker
