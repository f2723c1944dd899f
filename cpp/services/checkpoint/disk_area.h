// Where a checkpoint holds what its disks changed since the snapshot that it names: in pages behind those of memory.
//
//   2 pages             directory: 1,024 entries of 8 bytes, little endian; what slot i holds is entry i: 0 nothing, else
//                       disk (its place in CheckpointInfo::disks) << 48 | (cluster + 1)
//   1,024 * 16 pages    slots of one cluster (64 KiB) each; behind the end of a disk: zeros
//
// To the store they are pages like any others: shared, compressed, encrypted, inherited from the parent, kept when a link between
// is dropped. A new snapshot of the disks empties the directory; what the slots hold then means nothing any more.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "guest/disk_changes.h"
#include "guest/ram.h"
#include "store/store.h"

namespace mhv::checkpoint {

constexpr std::uint32_t kAreaSlots = 1024;
constexpr std::uint32_t kDirectoryPages = kAreaSlots * 8 / kPageSize;
constexpr std::uint32_t kSlotPages = guest::DiskCluster::kBytes / kPageSize;
constexpr std::uint32_t kAreaPages = kDirectoryPages + kAreaSlots * kSlotPages;

using DiskSlots = std::map<guest::DiskCluster, std::uint32_t>;

// As the last of CheckpointInfo::blocks.
store::BlockInfo disk_area();
// Of a checkpoint of a guest with this memory.
std::vector<store::BlockInfo> blocks_of(const guest::Ram& ram);
// Of the guest: all blocks but the area, which checkpoints of former versions do not have.
std::vector<store::BlockInfo> memory_blocks(const store::CheckpointInfo& info);

std::vector<std::byte> disk_directory(const DiskSlots& slots);  // kDirectoryPages pages
// Throws kCorrupt: an entry names a cluster twice, or a disk that is not there.
DiskSlots parse_disk_directory(std::span<const std::byte> directory, std::size_t disks);

// What the disks of one checkpoint held beside their snapshot. Thread-safe; everything given to it outlives it.
class DiskArea {
 public:
  // `table`: as the store resolves the checkpoint. Throws kCorrupt.
  DiskArea(const store::Store& store, const store::CheckpointInfo& info, std::span<const store::PageKey> table);

  const DiskSlots& slots() const { return slots_; }
  // Throws kCorrupt. `out`: a cluster.
  void read(std::uint32_t slot, std::span<std::byte> out) const;

 private:
  const store::Store& store_;
  std::span<const store::PageKey> pages_;  // empty: a checkpoint without an area
  DiskSlots slots_;
};

}  // namespace mhv::checkpoint
