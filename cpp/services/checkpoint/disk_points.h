// The moments of a guest's disks that its checkpoints refer to: a snapshot inside the disk images, and what the disks held otherwise,
// which is stored with the checkpoint's pages (disk_area.h).
//
// INVARIANT: what a committed checkpoint says of its disks is what they held while the guest was stopped for it. A dirty bitmap
// watches every disk from the newest moment on: an empty one proves that the moment still stands. It is looked at when the guest
// runs again, so that a disk at rest costs the pause nothing.
//
// A snapshot inside the image is taken where there is none to stand on (a new attach, after a restore), or when more was written since
// it than an area holds: QEMU rewrites the list of all of them for each, so thousands would stop it for seconds. All other moments
// cost the copy of what was written since the last one.
#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/disk_area.h"
#include "guest/live_guest.h"

namespace mhv::checkpoint {

// A moment takes QEMU longer than all the rest of a pause. So when something was written since the last one, the next is
// taken just before the guest is stopped. Only a disk that is written just then has its moment inside the pause.
//
// One thread at a time. `guest` outlives it.
class DiskPoints {
 public:
  // Deletes what attempts that a death cut off left in the disks, and snapshots of checkpoints that were deleted while
  // the guest was off. `wanted`: as want().
  DiskPoints(guest::LiveGuest& guest, const store::Store& store, bool wanted);

  // false: checkpoints are without disks.
  void want(bool wanted) { wanted_ = wanted; }

  // One checkpoint's disks: while prepare(), a pause, and done when held(); else a pause with take_stopped() inside. Then
  // put() and commit(). Destroyed without it: nothing of this checkpoint stays in the disks.
  // Writes into `info` which disks have a point, and which cannot have one. Nothing when the policy is "none".
  class Attempt {
   public:
    // `info.parent` is set.
    Attempt(DiskPoints& points, store::CheckpointInfo& info);
    ~Attempt();
    Attempt(const Attempt&) = delete;
    Attempt& operator=(const Attempt&) = delete;

    // While the guest runs. False: the disks are written so often that the point is better taken in the pause.
    bool prepare();
    void take_stopped();
    // Asked when the guest runs again: whether the point of prepare() still stands, and so stood in the pause.
    bool held();
    // Puts what the disks held otherwise than their snapshots; throws as Writer::put().
    void put(store::Writer& writer);
    // The checkpoint is durable.
    void commit();

   private:
    // There is a moment that this checkpoint may refer to.
    bool stands() const;
    void use(const std::string& tag);
    void take();
    void snapshot();
    bool begin_copy();
    bool finish_copy();

    DiskPoints& points_;
    store::CheckpointInfo& info_;
    std::vector<guest::DiskNode> nodes_;
    std::vector<std::uint32_t> places_;  // of nodes_, in info_.disks
    std::vector<std::string> taken_;     // snapshots of this attempt's own
    std::map<guest::DiskCluster, std::vector<std::byte>> copied_;
    DiskSlots slots_;
    bool copying_ = false;
    bool moved_ = false;  // the disks' newest moment is this attempt's
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

  guest::LiveGuest& guest_;
  bool wanted_;
  std::map<std::string, std::size_t> users_;  // checkpoints, by snapshot
  std::string newest_;                        // snapshot that the newest moment stands on; "": there is none
  std::string base_;                          // checkpoint that holds slots_
  DiskSlots slots_;                           // of the newest moment
  int quiet_ = 0;                             // checkpoints in a row that met no write
  int busy_ = 0;                              // checkpoints to come whose point is taken in the pause at once
  int busy_next_ = 1;                         // and how many when no early point held again: it doubles
};

// The name of the snapshots that a checkpoint's disks carry; any when none does.
std::string disk_tag(const store::CheckpointInfo& info);

// Names of the snapshots that each disk of the guest holds now, by target; only disks that can hold any.
std::map<std::string, std::set<std::string>> disk_snapshots(guest::LiveGuest& guest);

}  // namespace mhv::checkpoint
