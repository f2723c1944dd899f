// Saves a stock QEMU's devices at a moment whose end the caller chooses.
//
// One command, xen-save-devices-state, stops the guest, drains its disks, saves what is not RAM, and lets the guest go on. It
// writes into a pipe that holds less than the state has: QEMU stands still until somebody reads on, and the caller copies
// RAM meanwhile. Commands of their own for stop, save and cont take longer, most of it for waking threads.
//
// INVARIANT: from the return of Save's constructor to finish() no vCPU runs and no device writes. A guest that ran goes on
// whatever becomes of this process: a pipe that nobody can read any more ends QEMU's write, and QEMU starts again what it had
// stopped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "guest/qmp.h"

namespace mhv::guest {

// Not thread-safe; `qmp` must outlive it. One at a time per QEMU: what a former one left behind (it was killed) is cleaned
// up at first use.
class DeviceSaver {
 public:
  explicit DeviceSaver(Qmp& qmp) : qmp_(qmp) {}
  ~DeviceSaver();
  DeviceSaver(const DeviceSaver&) = delete;
  DeviceSaver& operator=(const DeviceSaver&) = delete;

  void prepare();  // gives QEMU the pipe, once and ahead of the stop

  // The guest stands still as long as this lives, and goes on at the latest at its end. A guest that stood still before
  // stays so. While it lives QEMU answers nobody, not even libvirt: do nothing that may wait for anything.
  class Save {
   public:
    // Throws kInvalid when QEMU refuses, kUnavailable when it takes too long to stop, kGone.
    explicit Save(DeviceSaver& saver);
    ~Save();
    Save(const Save&) = delete;
    Save& operator=(const Save&) = delete;
    // The guest goes on. The state as QEMU writes it with live:false. Throws also kUnsupported: more than kDeviceStateMax bytes,
    // or so few that the pipe held them all, and the guest may have run meanwhile.
    std::vector<std::byte> finish();

   private:
    DeviceSaver& saver_;
    std::uint64_t command_;
    bool finished_ = false;
  };

 private:
  void wait_for_qemu(Qmp::Deadline deadline) const;
  void read_what_is_there(std::vector<std::byte>& out) const;
  void give_up();

  Qmp& qmp_;
  Fd pipe_;           // the end that is read, without waiting
  int fdset_ = -1;    // QEMU's own name of the other end
  std::string path_;  // by which QEMU opens it
  std::size_t holds_ = 0;
};

}  // namespace mhv::guest
