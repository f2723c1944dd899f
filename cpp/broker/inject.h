// Making QEMU call ioctl() for us, without a line of its text being changed: for what the kernel does only for the process whose
// memory, or whose virtual machine, it is.
//
// A stopped main thread nearly always stands right behind a `syscall` instruction (it waits in ppoll). Its registers are set so
// that it executes that instruction once more, as ioctl(fd, request, argument), for one single step; then all
// registers are put back and the kernel restarts the interrupted system call as if nothing had been. x86-64 only.
#pragma once

#include <cstdint>

#include "broker/process.h"

namespace mhv::broker {

struct Injection {
  int number = -1;             // of the new userfaultfd inside QEMU
  std::uint32_t attempts = 0;  // how often the thread was stopped; each stop lasts well below a millisecond
};

// The work is done by a short-lived child process, so that a broker which is killed in the middle leaves no half-changed registers
// behind. One call at a time per QEMU. Both throw kGone, kBusy (no system call in time, traced by another, or stopped by a signal),
// kUnsupported.

// A userfaultfd of QEMU's memory. `device_fd`: number inside QEMU of an open /dev/userfaultfd (the caller has checked that).
Injection inject_uffd(const QemuProcess& process, int device_fd);

// The time of a KVM guest (kvm-clock), beside the host's CLOCK_MONOTONIC_RAW.
struct ClockMoment {
  std::uint64_t guest_ns = 0;
  std::int64_t host_ns = 0;  // 0: no moment
};
struct KeptClock {
  ClockMoment since;           // to be named the next time
  std::uint64_t given_ns = 0;  // what the guest's clock went forward
};

// QEMU stops a guest's clock in every pause. This gives it back what it lost since `since`, but no more than `lost_ns_max`, which is
// what the caller paused it for: who else stops a guest means its clock to stop. Then, and without a `since`, the guest's time is
// right as it is from here on. The clock never goes back. `vm_fd`: number inside QEMU of its KVM machine (checked by the caller).
// A guest whose clock source is tsc does not see any of this, and has lost nothing.
KeptClock keep_clock(const QemuProcess& process, int vm_fd, const ClockMoment& since, std::uint64_t lost_ns_max);

}  // namespace mhv::broker
