// The snapshots inside a guest's disk images that belong to checkpoints.
#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/live_guest.h"

namespace mhv::checkpoint {

// The disks' part of a checkpoint under way.
//
// A snapshot takes QEMU longer than all the rest of a pause. So snapshots are taken just before the guest is stopped, and
// from that moment on a dirty bitmap watches every disk: as long as nothing was written, the point still stands when the
// guest does not run any more. When something was, others are taken inside the pause, and the early ones are thrown away.
//
// One thread at a time. `guest` and `info` outlive it.
class DiskPoint {
 public:
  // Writes into `info` which disks have a point, and which cannot have one. Nothing when the policy is "none".
  DiskPoint(LiveGuest& guest, store::CheckpointInfo& info);
  // Deletes what is not kept; best when the guest runs again.
  ~DiskPoint();
  DiskPoint(const DiskPoint&) = delete;
  DiskPoint& operator=(const DiskPoint&) = delete;

  void take_early();
  // The guest must be stopped. False: the early point did not hold.
  bool settle();
  // The checkpoint is durable.
  void keep() { kept_ = true; }

 private:
  enum class State { kNone, kEarly, kSettled };
  void name_snapshots(const std::string& tag);
  void drop(const std::string& tag) noexcept;

  LiveGuest& guest_;
  store::CheckpointInfo& info_;
  std::vector<guest::DiskNode> nodes_;
  std::string tag_;
  std::string superseded_;
  State state_ = State::kNone;
  bool watching_ = false;
  bool kept_ = false;
};

// The name of the snapshots that a checkpoint's disks carry; any when none does.
std::string disk_tag(const store::CheckpointInfo& info);

// Names of the snapshots that each disk of the guest holds now, by target; only disks that can hold any.
std::map<std::string, std::set<std::string>> disk_snapshots(LiveGuest& guest);

// Deletes a checkpoint's snapshots from the running guest's disks. Logs what it cannot delete: the next
// drop_orphan_snapshots() tries again.
void drop_disk_snapshots(LiveGuest& guest, const store::CheckpointInfo& info) noexcept;

// Deletes what attempts that a death cut off left in the disks, and snapshots of checkpoints deleted while the guest was
// off. Returns how many.
std::size_t drop_orphan_snapshots(LiveGuest& guest, const store::Store& store);

}  // namespace mhv::checkpoint
