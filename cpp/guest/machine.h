// Stop, run and load a stock QEMU through its monitor. Saving it: device_saver.h. What its disks change: disk_changes.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "guest/qmp.h"

namespace mhv::guest {

struct DiskNode {
  std::string target;  // "vda"
  std::string node;    // block node that takes snapshots: the root of the disk's nodes
  std::string path;
  std::string format;
};

// One QEMU. Not thread-safe; `qmp` must outlive it. One at a time per QEMU: what a former one left behind (it was killed) is
// cleaned up at first use.
class Machine {
 public:
  explicit Machine(Qmp& qmp) : qmp_(qmp) {}
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  bool running();           // query-status
  bool has_balloon();       // or another device by which the guest gives memory back
  bool balloon_inflated();  // the guest has given memory back, and not taken it again
  // Waits for, and removes, what a load that was cut off left in QEMU.
  void clean_up_load();
  void stop();    // returns when no vCPU runs and no device writes
  void resume();  // `cont`
  // Gives QEMU what load() will read, as internal snapshot `tag` of a node of its own. The guest may run.
  void stage_load(std::span<const std::byte> state, const std::string& machine, const std::string& tag);
  // Loads what stage_load() gave. RAM must be back already (virtio reads its rings while loading). Rolls the listed disks back to
  // their internal snapshot `tag` in the same step. The guest must be stopped, and stays stopped. When it throws, device state and
  // disks are undefined, and it may be tried again from stage_load() on. Afterwards, when there is time: clean_up_load().
  // The load resets the machine first, which writes firmware tables (`/rom@etc/acpi/tables`, ...) as they were before the
  // firmware placed them: put RAM blocks that are read_only back (again) AFTERWARDS. Writable blocks stay untouched.
  void load(const std::string& tag, std::span<const DiskNode> disks);
  // Returns when every disk request that was under way has ended, and with it every transfer into guest memory that began
  // before the call. The guest may run, and begin new ones.
  void drain_disks();
  void delete_disk_snapshot(const DiskNode& disk, const std::string& tag);  // missing: no error

 private:
  Qmp& qmp_;
};

}  // namespace mhv::guest
