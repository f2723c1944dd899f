// The moments of a guest's disks that its checkpoints refer to: snapshots inside the disk images, shared by all checkpoints
// between which no disk was written.
//
// INVARIANT: a checkpoint that is committed names a snapshot whose content is what the disks held while the guest was
// stopped for it. A dirty bitmap watches every disk from the moment of the newest snapshot on: an empty one proves that
// the moment still stands. It is looked at when the guest runs again, so that a disk at rest costs the pause nothing.
#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/live_guest.h"

namespace mhv::checkpoint {

// A snapshot takes QEMU longer than all the rest of a pause. So when something was written since the last one, the next is
// taken just before the guest is stopped. Only a disk that is written just then has its snapshot taken inside the pause.
//
// One thread at a time. `guest` outlives it.
class DiskPoints {
 public:
  // Deletes what attempts that a death cut off left in the disks, and snapshots of checkpoints that were deleted while
  // the guest was off.
  DiskPoints(LiveGuest& guest, const store::Store& store);

  // One checkpoint's disks: while prepare(), a pause, and done when held(); else a pause with take_stopped() inside. Then
  // commit(). Destroyed without it: nothing of this checkpoint stays in the disks.
  // Writes into `info` which disks have a point, and which cannot have one. Nothing when the policy is "none".
  class Attempt {
   public:
    Attempt(DiskPoints& points, store::CheckpointInfo& info);
    ~Attempt();
    Attempt(const Attempt&) = delete;
    Attempt& operator=(const Attempt&) = delete;

    // While the guest runs. False: the disks are written so often that the point is better taken in the pause.
    bool prepare();
    void take_stopped();
    // Asked when the guest runs again: whether the point of prepare() still stands, and so stood in the pause.
    bool held();
    // The checkpoint is durable.
    void commit();

   private:
    bool written() const;
    void use(const std::string& tag);
    void take();

    DiskPoints& points_;
    store::CheckpointInfo& info_;
    std::vector<guest::DiskNode> nodes_;
    std::vector<std::string> taken_;  // snapshots of this attempt's own
    int early_tries_ = 0;
    bool committed_ = false;
  };

  // The checkpoint is deleted: its snapshots go when no other one shares them. Logs what it cannot delete: the next attach
  // tries again.
  void release(const store::CheckpointInfo& info) noexcept;
  // Nothing watches the disks any more: the guest is left as it was found.
  void leave();

 private:
  void drop(const std::string& tag) noexcept;
  void drop_orphans();
  std::vector<guest::DiskNode> nodes() const;

  LiveGuest& guest_;
  std::map<std::string, std::size_t> users_;  // checkpoints, by snapshot
  std::string newest_;                        // "": none that a bitmap watches
  bool was_busy_ = false;                     // no point taken early held: the next one is taken in the pause at once
};

// The name of the snapshots that a checkpoint's disks carry; any when none does.
std::string disk_tag(const store::CheckpointInfo& info);

// Names of the snapshots that each disk of the guest holds now, by target; only disks that can hold any.
std::map<std::string, std::set<std::string>> disk_snapshots(LiveGuest& guest);

}  // namespace mhv::checkpoint
