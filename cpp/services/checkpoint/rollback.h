// Puts a running guest back to a checkpoint, in place: same process, same taps, same identity.
//
// INVARIANT: from the first page put back until RAM, disks and devices are all at the checkpoint, the run state says
// `restoring` and the guest does not run. Every step may be done again, so whoever finds `restoring` does the whole
// restore again; and so does whoever finds the mark of one that QEMU or the host did not survive (restore_mark.h). (Method: RAM first, for
// virtio reads its rings while it loads; then QMP snapshot-load, which reverts the disks and loads the device state; then what the disks
// held otherwise than their snapshots, and what the load itself wrote.)
//
// RAM comes back in one of two ways, and all the rest is the same:
//   fill now         a guest that has run: what may differ is found and read while it runs, and written in the pause
//   fill on demand   a QEMU that was just started for this and has not run: what it has touched is put back now, all else is
//                    missing until it is needed (filler.h). How much memory the guest has does not matter
#pragma once

#include <span>
#include <string>

#include "checkpoint/checkpointer.h"
#include "checkpoint/disk_restore.h"
#include "checkpoint/filler.h"
#include "checkpoint/restore_mark.h"
#include "guest/ram_mapping.h"

namespace mhv::checkpoint {

struct RollbackResult {
  std::uint64_t pages_written = 0;
  std::uint64_t pause_us = 0;
};

// One thread at a time. Everything given to the constructor outlives it.
class Rollback {
 public:
  // `on_demand`: of the checkpoint that run() is called with, nullptr: fill now.
  Rollback(guest::LiveGuest& guest, store::Store& store, RunState& state, Lineage& lineage, RestoreMark& mark, Filler* on_demand = nullptr);

  // `resume`: the guest runs afterwards even if it did not before. Throws kNotFound, kInvalid (another machine type, RAM
  // layout or set of disks), kCorrupt; before `restoring` the guest then runs on untouched, after it the guest stays
  // stopped and the restore has to be tried again.
  RollbackResult run(const std::string& id, bool resume, const StageFn& progress);

 private:
  void check_fits(const store::CheckpointInfo& info) const;
  guest::PageSet before_pause(const std::string& id, const StageFn& progress);
  std::uint64_t put_back_in_pause(const std::string& id, guest::PageSet& pages);
  guest::PageSet suspects(const std::string& id, const StageFn& progress);
  void compare_everything(guest::PageSet& out, const StageFn& progress);
  void fetch(const guest::PageSet& pages);
  void write(PageRange range);
  bool differs(PageNo page, std::span<const std::byte, kPageSize> content) const;
  std::uint64_t put_back(const guest::PageSet& pages);
  void put_ready(std::span<const PageNo> pages);
  std::uint64_t put_back_what_differs(const guest::PageSet& pages);

  guest::LiveGuest& guest_;
  store::Store& store_;
  RunState& state_;
  Lineage& lineage_;
  RestoreMark& mark_;
  Filler* const on_demand_;
  store::PageTable resolved_;  // empty with on_demand_, which has it
  std::span<const store::PageKey> target_;
  Staging staging_;             // contents read from the store before the pause
  guest::RamMapping mapping_;   // where they go, as far as it can be mapped
  guest::PageSet ready_;        // pages that mapping_ has brought in
  std::vector<std::byte> run_;  // of pages that are written or compared at once
};

}  // namespace mhv::checkpoint
