#include "checkpoint/disk_area.h"

#include <array>
#include <cstring>

#include "base/error.h"

namespace mhv::checkpoint {
namespace {

constexpr const char* kAreaName = "nova-mhv/disks";  // QEMU's names of memory blocks have no such beginning
constexpr unsigned kDiskShift = 48;

}  // namespace

store::BlockInfo disk_area() { return {kAreaName, std::uint64_t{kAreaPages} * kPageSize, false}; }

std::vector<store::BlockInfo> blocks_of(const guest::Ram& ram) {
  std::vector<store::BlockInfo> out;
  for (const guest::RamBlock& block : ram.blocks()) out.push_back({block.name, block.bytes, block.read_only});
  out.push_back(disk_area());
  return out;
}

std::vector<store::BlockInfo> memory_blocks(const store::CheckpointInfo& info) {
  std::vector<store::BlockInfo> out = info.blocks;
  if (!out.empty() && out.back() == disk_area()) out.pop_back();
  return out;
}

std::vector<std::byte> disk_directory(const DiskSlots& slots) {
  std::array<std::uint64_t, kAreaSlots> entries{};
  for (const auto& [cluster, slot] : slots) entries.at(slot) = std::uint64_t{cluster.disk} << kDiskShift | (cluster.index + 1);
  std::vector<std::byte> out(sizeof entries);
  std::memcpy(out.data(), entries.data(), out.size());
  return out;
}

DiskSlots parse_disk_directory(std::span<const std::byte> directory, std::size_t disks) {
  std::array<std::uint64_t, kAreaSlots> entries{};
  if (directory.size() != sizeof entries) throw Error(Code::kCorrupt, "a directory of disk changes has another size");
  std::memcpy(entries.data(), directory.data(), directory.size());
  DiskSlots out;
  for (std::uint32_t slot = 0; slot < kAreaSlots; ++slot) {
    if (entries[slot] == 0) continue;
    const auto disk = static_cast<std::uint32_t>(entries[slot] >> kDiskShift);
    const std::uint64_t cluster = entries[slot] & ((std::uint64_t{1} << kDiskShift) - 1);
    if (disk >= disks || cluster == 0 || !out.emplace(guest::DiskCluster{disk, cluster - 1}, slot).second)
      throw Error(Code::kCorrupt, "a checkpoint's directory of disk changes is damaged", "run: mhvctl checkpoint verify");
  }
  return out;
}

DiskArea::DiskArea(const store::Store& store, const store::CheckpointInfo& info, std::span<const store::PageKey> table) : store_(store) {
  const std::vector<store::BlockInfo> memory = memory_blocks(info);
  if (memory.size() == info.blocks.size()) return;
  std::uint64_t first = 0;
  for (const store::BlockInfo& block : memory) first += block.bytes / kPageSize;
  if (table.size() != first + kAreaPages) throw Error(Code::kCorrupt, "checkpoint " + info.id + " has another number of pages");
  pages_ = table.subspan(first);
  std::vector<std::byte> directory(std::size_t{kDirectoryPages} * kPageSize);
  for (std::uint32_t i = 0; i < kDirectoryPages; ++i)
    store_.read(pages_[i], std::span<std::byte, kPageSize>(directory.data() + std::size_t{i} * kPageSize, kPageSize));
  slots_ = parse_disk_directory(directory, info.disks.size());
}

void DiskArea::read(std::uint32_t slot, std::span<std::byte> out) const {
  std::vector<store::PageRead> reads;
  for (std::uint32_t i = 0; i < kSlotPages; ++i)
    reads.push_back({pages_[kDirectoryPages + slot * kSlotPages + i], out.data() + std::size_t{i} * kPageSize});
  store_.read_many(reads);
}

}  // namespace mhv::checkpoint
