// Puts a guest's disks back to a checkpoint: QEMU reverts them to their snapshots, then what they held otherwise is written over that.
//
// INVARIANT: put_back_changes() returns only when every cluster was read back through QEMU and is as stored, and flushed. A QEMU that
// dies before leaves disks between two moments: whoever calls this sets a mark before (restore_mark.h).
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "checkpoint/disk_area.h"
#include "guest/disk_writer.h"
#include "guest/live_guest.h"

namespace mhv::checkpoint {

// For one restore. One thread at a time; everything given to it outlives it.
class DiskRestore {
 public:
  // `table`: as the store resolves the checkpoint. Throws kInvalid when the guest has not the disks of the checkpoint any more, or their
  // snapshots are gone; kCorrupt. Reads what will be written: at most 64 MiB.
  DiskRestore(guest::LiveGuest& guest, const store::Store& store, const store::CheckpointInfo& info, std::span<const store::PageKey> table);

  // Disks with a point.
  const std::vector<guest::DiskNode>& nodes() const { return nodes_; }
  // The guest may run: nothing watches its disks any more, as QEMU reverts none that has a dirty bitmap. Throws kUnsupported when
  // put_back_changes() cannot work here.
  void prepare();
  // The guest is stopped and QEMU has reverted nodes(). May be done again. Throws kInternal when a disk does not hold what was written.
  void put_back_changes();

 private:
  void find_disks(const store::CheckpointInfo& info);
  void cut_off();
  void write_all();
  void compare_all();

  guest::LiveGuest& guest_;
  std::vector<guest::DiskNode> nodes_;
  std::map<std::uint32_t, std::uint32_t> number_;  // in nodes_, by the place in CheckpointInfo::disks
  std::map<guest::DiskCluster, std::vector<std::byte>> content_;
  std::optional<guest::DiskWriter> writer_;  // none when there is nothing to write
};

}  // namespace mhv::checkpoint
