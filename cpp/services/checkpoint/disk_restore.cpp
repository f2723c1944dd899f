#include "checkpoint/disk_restore.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "checkpoint/disk_points.h"

namespace mhv::checkpoint {

DiskRestore::DiskRestore(guest::LiveGuest& guest, const store::Store& store, const store::CheckpointInfo& info,
                         std::span<const store::PageKey> table)
    : guest_(guest) {
  find_disks(info);
  const DiskArea area(store, info, table);
  if (area.slots().empty()) return;
  writer_.emplace(guest_.qmp, nodes_);
  for (const auto& [cluster, slot] : area.slots()) {
    const auto number = number_.find(cluster.disk);
    const std::uint64_t from = cluster.index * guest::DiskCluster::kBytes;
    const std::uint64_t size = number == number_.end() ? 0 : writer_->bytes_of(nodes_[number->second]);
    if (from >= size) {
      throw Error(Code::kInvalid, fmt::format("checkpoint {} holds changes of a disk behind its end: it was made smaller since", info.id),
                  "restore a newer checkpoint, or export this one with its disks");
    }
    std::vector<std::byte>& content = content_[{number->second, cluster.index}];
    content.resize(guest::DiskCluster::kBytes);
    area.read(slot, content);
  }
}

void DiskRestore::find_disks(const store::CheckpointInfo& info) {
  const auto present = disk_snapshots(guest_);
  for (std::uint32_t place = 0; place < info.disks.size(); ++place) {
    const store::DiskInfo& disk = info.disks[place];
    if (disk.snapshot.empty()) continue;
    const auto live =
        std::find_if(guest_.disks.begin(), guest_.disks.end(), [&](const guest::Disk& d) { return d.node.target == disk.target; });
    if (live == guest_.disks.end() || !live->can_snapshot()) {
      throw Error(Code::kInvalid, fmt::format("checkpoint {} has a point of disk {}, which the guest no longer has", info.id, disk.target),
                  "attach the disk again as " + disk.target + ", or export the checkpoint");
    }
    if (!present.at(disk.target).contains(disk.snapshot)) {
      throw Error(Code::kInvalid,
                  fmt::format("disk {} no longer holds the point of checkpoint {}: the image was replaced since (rebuild, resize, move)",
                              disk.target, info.id),
                  "restore a newer checkpoint; this one can still be exported, without its disks");
    }
    number_[place] = static_cast<std::uint32_t>(nodes_.size());
    nodes_.push_back(live->node);
  }
}

void DiskRestore::prepare() {
  guest_.disk_changes.stop(nodes_);
  if (writer_) writer_->probe();
}

// The last cluster ends with its disk, whose size may have gone back with the snapshot.
void DiskRestore::cut_off() {
  writer_->look();
  for (auto& [cluster, content] : content_) {
    const std::uint64_t from = cluster.index * guest::DiskCluster::kBytes;
    const std::uint64_t size = writer_->bytes_of(nodes_[cluster.disk]);
    if (from >= size) throw Error(Code::kCorrupt, "a checkpoint holds changes of a disk behind its end", "restore another checkpoint");
    content.resize(std::min<std::uint64_t>(guest::DiskCluster::kBytes, size - from));
  }
}

// Clusters that follow one another go in one piece: each costs QEMU a command.
void DiskRestore::write_all() {
  std::vector<std::byte> run;
  for (auto at = content_.begin(); at != content_.end();) {
    const guest::DiskCluster first = at->first;
    run.clear();
    for (; at != content_.end() && at->first.disk == first.disk && run.size() < guest::DiskWriter::kBytesMax &&
           at->first.index * guest::DiskCluster::kBytes == first.index * guest::DiskCluster::kBytes + run.size();
         ++at)
      run.insert(run.end(), at->second.begin(), at->second.end());
    writer_->write(nodes_[first.disk], first.index * guest::DiskCluster::kBytes, run);
  }
  for (const guest::DiskNode& node : nodes_) writer_->flush(node);
}

// A cluster of zeros may leave none in the copy.
void DiskRestore::compare_all() {
  if (guest_.disk_changes.written() != content_.size()) throw Error(Code::kInternal, "QEMU did not write all of the disks' changes");
  guest_.disk_changes.copy();
  std::size_t same = 0;
  const auto copied = guest_.disk_changes.finish_copy([&](guest::DiskCluster cluster, std::span<const std::byte> seen) {
    const auto wanted = content_.find(cluster);
    if (wanted == content_.end() || !std::ranges::equal(wanted->second, seen))
      throw Error(Code::kInternal, fmt::format("disk {} does not hold what was written to it", nodes_[cluster.disk].target),
                  "see QEMU's log for an error of its image; restore the checkpoint again");
    ++same;
  });
  const auto zeros = [](const auto& entry) { return std::ranges::all_of(entry.second, [](std::byte b) { return b == std::byte{0}; }); };
  if (!copied.error.empty()) throw Error(Code::kInternal, "QEMU cannot read a disk back: " + copied.error, "restore the checkpoint again");
  if (same < content_.size() - static_cast<std::size_t>(std::ranges::count_if(content_, zeros)))
    throw Error(Code::kInternal, "a disk does not hold all that was written to it", "restore the checkpoint again");
}

void DiskRestore::put_back_changes() {
  if (!writer_) return;
  cut_off();
  guest_.disk_changes.watch(nodes_);
  write_all();
  compare_all();
  guest_.disk_changes.stop(nodes_);
}

}  // namespace mhv::checkpoint
