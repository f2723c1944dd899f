#include "checkpoint/disk_points.h"

#include <spdlog/spdlog.h>

#include <set>
#include <string>

#include "checkpoint/checkpointer.h"

namespace mhv::checkpoint {
namespace {

void drop(LiveGuest& guest, const Disk& disk, const std::string& snapshot) noexcept {
  try {
    guest.machine.delete_disk_snapshot(disk.node, snapshot);
  } catch (const std::exception& error) {
    spdlog::warn("disk {} keeps snapshot {}: {}", disk.node.target, snapshot, error.what());
  }
}

}  // namespace

void drop_disk_snapshots(LiveGuest& guest, const store::CheckpointInfo& info) noexcept {
  for (const store::DiskInfo& point : info.disks) {
    if (point.snapshot.empty()) continue;
    for (const Disk& disk : guest.disks) {
      if (disk.node.target == point.target && disk.can_snapshot()) drop(guest, disk, point.snapshot);
    }
  }
}

std::size_t drop_orphan_snapshots(LiveGuest& guest, const store::Store& store) {
  std::set<std::string> known;
  for (const store::CheckpointInfo& info : store.list()) known.insert(disk_snapshot_name(info.id));
  const std::string prefix = disk_snapshot_name("");
  std::size_t dropped = 0;
  const guest::Qmp::Json nodes = guest.qmp.call("query-named-block-nodes", {{"flat", true}});
  for (const Disk& disk : guest.disks) {
    if (!disk.can_snapshot()) continue;
    for (const auto& node : nodes) {
      if (node.value("node-name", "") != disk.node.node) continue;
      for (const auto& snapshot : node.value("image", guest::Qmp::Json::object()).value("snapshots", guest::Qmp::Json::array())) {
        const std::string name = snapshot.value("name", "");
        if (!name.starts_with(prefix) || known.contains(name)) continue;
        drop(guest, disk, name);
        ++dropped;
      }
    }
  }
  return dropped;
}

}  // namespace mhv::checkpoint
