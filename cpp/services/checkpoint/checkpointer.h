// Takes a checkpoint of a running guest: one consistent point of RAM, vCPUs, devices and disks.
#pragma once

#include <functional>
#include <string>

#include "base/background.h"
#include "checkpoint/disk_points.h"
#include "checkpoint/lineage.h"
#include "checkpoint/run_state.h"
#include "checkpoint/staging.h"
#include "guest/live_guest.h"
#include "store/store.h"

namespace mhv::checkpoint {

// (stage, done, total); total 0: unknown.
using StageFn = std::function<void(const char*, std::uint64_t, std::uint64_t)>;

struct CreateRequest {
  std::string name;
  std::string parent;  // "": a root
  bool automatic = false;
  store::Effort effort = store::Effort::kDense;
  std::uint64_t epoch = 0;
  bool runs = true;  // false: somebody else has stopped the guest, and it loses no time
};

std::string new_uuid();

// One thread at a time. Everything given to the constructor outlives it.
class Checkpointer {
 public:
  Checkpointer(guest::LiveGuest& guest, store::Store& store, RunState& state, Lineage& lineage, DiskPoints& disk_points,
               Background& background);

  // The guest is stopped only for what was written during the copy before, the device state and the disks' snapshots.
  // Throws kNoSpace (nothing is lost, the next attempt holds these pages too), kGone, kCorrupt, kUnavailable.
  store::CheckpointInfo create(const CreateRequest& request, const StageFn& progress);

 private:
  void stream(const guest::PageSet& pages, store::Writer& writer, const StageFn& progress);
  void copy_while_running(guest::PageSet& todo, store::Writer& writer, const StageFn& progress);
  struct Paused {
    std::vector<std::byte> device_state;
    std::int64_t at_ns = 0;
    std::uint64_t pause_us = 0;
  };
  void copy_at_rest(guest::PageSet& todo, bool lately, Paused& out);
  void copy_with_disks(guest::PageSet& todo, DiskPoints::Attempt& disks, Paused& out);
  Paused pause_at_one_moment(guest::PageSet& todo, DiskPoints::Attempt& disks);
  void store_staged(store::Writer& writer, const StageFn& progress);

  guest::LiveGuest& guest_;
  store::Store& store_;
  RunState& state_;
  Lineage& lineage_;
  DiskPoints& disk_points_;
  Background& background_;
  Staging staging_;
  std::uint32_t misses_ = 0;  // pauses in a row that did not look at enough
  std::uint32_t whole_ = 0;   // checkpoints to come whose pause looks at everything
};

}  // namespace mhv::checkpoint
