#include "checkpoint/disk_points.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

namespace mhv::checkpoint {
namespace {

constexpr const char* kPrefix = "mhv-";

void drop(LiveGuest& guest, const Disk& disk, const std::string& snapshot) noexcept {
  try {
    guest.machine.delete_disk_snapshot(disk.node, snapshot);
  } catch (const std::exception& error) {
    spdlog::warn("disk {} keeps snapshot {}: {}", disk.node.target, snapshot, error.what());
  }
}

}  // namespace

DiskPoint::DiskPoint(LiveGuest& guest, store::CheckpointInfo& info) : guest_(guest), info_(info), tag_(kPrefix + info.id) {
  if (!guest_.snapshot_disks) return;
  for (const Disk& disk : guest_.disks) {
    if (disk.read_only) continue;
    store::DiskInfo about{disk.node.target, disk.node.path, disk.node.format, "", ""};
    if (disk.can_snapshot()) {
      nodes_.push_back(disk.node);
    } else {
      about.note = fmt::format("format {} holds no snapshots", disk.node.format);
    }
    info_.disks.push_back(std::move(about));
  }
  name_snapshots(tag_);
}

DiskPoint::~DiskPoint() {
  try {
    if (watching_) guest_.machine.stop_watching(nodes_);
  } catch (const std::exception& error) {
    spdlog::warn("a dirty bitmap stays on the guest's disks until the next attach: {}", error.what());
  }
  if (!superseded_.empty()) drop(superseded_);
  if (state_ != State::kNone && !kept_) drop(tag_);
}

void DiskPoint::name_snapshots(const std::string& tag) {
  tag_ = tag;
  for (store::DiskInfo& about : info_.disks) {
    if (about.note.empty()) about.snapshot = tag;
  }
}

void DiskPoint::take_early() {
  if (nodes_.empty()) return;
  guest_.machine.snapshot_disks(nodes_, tag_, true);
  watching_ = true;
  state_ = State::kEarly;
}

bool DiskPoint::settle() {
  if (nodes_.empty()) return true;
  if (state_ == State::kEarly) {
    if (!guest_.machine.written_since_snapshot(nodes_)) {
      state_ = State::kSettled;
      return true;
    }
    superseded_ = tag_;
    name_snapshots(tag_ + "-late");
    state_ = State::kNone;
  }
  guest_.machine.snapshot_disks(nodes_, tag_, false);
  state_ = State::kSettled;
  return superseded_.empty();
}

void DiskPoint::drop(const std::string& tag) noexcept {
  for (const Disk& disk : guest_.disks) {
    if (disk.can_snapshot()) checkpoint::drop(guest_, disk, tag);
  }
}

std::string disk_tag(const store::CheckpointInfo& info) {
  for (const store::DiskInfo& disk : info.disks) {
    if (!disk.snapshot.empty()) return disk.snapshot;
  }
  return kPrefix + info.id;
}

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
  for (const store::CheckpointInfo& info : store.list()) known.insert(disk_tag(info));
  std::vector<guest::DiskNode> nodes;
  for (const Disk& disk : guest.disks) nodes.push_back(disk.node);
  guest.machine.stop_watching(nodes);
  const std::map<std::string, std::set<std::string>> present = disk_snapshots(guest);
  std::size_t dropped = 0;
  for (const Disk& disk : guest.disks) {
    const auto found = present.find(disk.node.target);
    if (found == present.end()) continue;
    for (const std::string& name : found->second) {
      if (!name.starts_with(kPrefix) || known.contains(name)) continue;
      drop(guest, disk, name);
      ++dropped;
    }
  }
  return dropped;
}

}  // namespace mhv::checkpoint
