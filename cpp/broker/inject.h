// Making QEMU create a userfaultfd of its own memory, without a line of its text being changed.
//
// A stopped main thread nearly always stands right behind a `syscall` instruction (it waits in ppoll). Its registers are set so
// that it executes that instruction once more, as ioctl(device_fd, USERFAULTFD_IOC_NEW, flags), for one single step; then all
// registers are put back and the kernel restarts the interrupted system call as if nothing had been. x86-64 only.
#pragma once

#include <cstdint>

#include "broker/process.h"

namespace mhv::broker {

struct Injection {
  int number = -1;             // of the new userfaultfd inside QEMU
  std::uint32_t attempts = 0;  // how often the thread was stopped; each stop lasts well below a millisecond
};

// `device_fd`: number inside QEMU of an open /dev/userfaultfd (the caller has checked that). The work is done by a short-lived
// child process, so that a broker which is killed in the middle leaves no half-changed registers behind.
// One call at a time per QEMU. Throws kGone, kBusy (no system call within two seconds, traced by another, or stopped by a
// signal), kUnsupported.
Injection inject_uffd(const QemuProcess& process, int device_fd);

}  // namespace mhv::broker
