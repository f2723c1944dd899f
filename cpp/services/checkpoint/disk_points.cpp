#include "checkpoint/disk_points.h"

#include <spdlog/spdlog.h>

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

std::map<std::string, std::set<std::string>> disk_snapshots(LiveGuest& guest) {
  using Json = guest::Qmp::Json;
  std::map<std::string, std::set<std::string>> out;
  const Json nodes = guest.qmp.call("query-named-block-nodes", {{"flat", true}});
  for (const Disk& disk : guest.disks) {
    if (!disk.can_snapshot()) continue;
    std::set<std::string>& names = out[disk.node.target];
    for (const Json& node : nodes) {
      if (node.value("node-name", "") != disk.node.node) continue;
      for (const Json& snapshot : node.value("image", Json::object()).value("snapshots", Json::array()))
        names.insert(snapshot.value("name", ""));
    }
  }
  return out;
}

std::size_t drop_orphan_snapshots(LiveGuest& guest, const store::Store& store) {
  std::set<std::string> known;
  for (const store::CheckpointInfo& info : store.list()) known.insert(disk_snapshot_name(info.id));
  const std::map<std::string, std::set<std::string>> present = disk_snapshots(guest);
  std::size_t dropped = 0;
  for (const Disk& disk : guest.disks) {
    const auto found = present.find(disk.node.target);
    if (found == present.end()) continue;
    for (const std::string& name : found->second) {
      if (!name.starts_with(disk_snapshot_name("")) || known.contains(name)) continue;
      drop(guest, disk, name);
      ++dropped;
    }
  }
  return dropped;
}

}  // namespace mhv::checkpoint
