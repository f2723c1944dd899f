// The snapshots inside a guest's disk images that belong to checkpoints.
#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <string>

#include "checkpoint/live_guest.h"

namespace mhv::checkpoint {

// Names of the snapshots that each disk of the guest holds now, by target; only disks that can hold any.
std::map<std::string, std::set<std::string>> disk_snapshots(LiveGuest& guest);

// Deletes a checkpoint's snapshots from the running guest's disks. Logs what it cannot delete: the next
// drop_orphan_snapshots() tries again.
void drop_disk_snapshots(LiveGuest& guest, const store::CheckpointInfo& info) noexcept;

// Deletes snapshots of checkpoints that are not in the store: of attempts that a death cut off, and of
// checkpoints deleted while the guest was off. Returns how many.
std::size_t drop_orphan_snapshots(LiveGuest& guest, const store::Store& store);

}  // namespace mhv::checkpoint
