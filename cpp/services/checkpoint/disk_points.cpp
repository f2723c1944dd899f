#include "checkpoint/disk_points.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <utility>

namespace mhv::checkpoint {
namespace {

constexpr const char* kPrefix = "mhv-";
// Pauses that are given up because a disk was written just before. One more costs the guest less than a snapshot in a pause.
constexpr int kEarlyTriesMax = 2;

// "": it has no disk with a point.
std::string tag_in(const store::CheckpointInfo& info) {
  for (const store::DiskInfo& disk : info.disks) {
    if (!disk.snapshot.empty()) return disk.snapshot;
  }
  return {};
}

}  // namespace

DiskPoints::DiskPoints(LiveGuest& guest, const store::Store& store) : guest_(guest) {
  for (const store::CheckpointInfo& info : store.list()) {
    if (const std::string tag = tag_in(info); !tag.empty()) ++users_[tag];
  }
  drop_orphans();
}

std::vector<guest::DiskNode> DiskPoints::nodes() const {
  std::vector<guest::DiskNode> out;
  for (const Disk& disk : guest_.disks) {
    if (disk.can_snapshot()) out.push_back(disk.node);
  }
  return out;
}

void DiskPoints::leave() {
  guest_.machine.stop_watching(nodes());
  newest_.clear();
}

void DiskPoints::drop_orphans() {
  leave();
  std::set<std::string> orphans;
  for (const auto& [target, names] : disk_snapshots(guest_)) {
    for (const std::string& name : names) {
      if (name.starts_with(kPrefix) && !users_.contains(name)) orphans.insert(name);
    }
  }
  for (const std::string& name : orphans) drop(name);
  if (!orphans.empty()) spdlog::info("{} disk snapshots of unfinished or deleted checkpoints dropped", orphans.size());
}

void DiskPoints::drop(const std::string& tag) noexcept {
  for (const guest::DiskNode& node : nodes()) {
    try {
      guest_.machine.delete_disk_snapshot(node, tag);
    } catch (const std::exception& error) {
      spdlog::warn("disk {} keeps snapshot {}: {}", node.target, tag, error.what());
    }
  }
}

void DiskPoints::release(const store::CheckpointInfo& info) noexcept {
  const auto used = users_.find(tag_in(info));
  if (used == users_.end() || --used->second > 0) return;
  const std::string tag = used->first;
  users_.erase(used);
  if (newest_ == tag) newest_.clear();
  drop(tag);
}

DiskPoints::Attempt::Attempt(DiskPoints& points, store::CheckpointInfo& info) : points_(points), info_(info) {
  if (!points_.guest_.snapshot_disks) return;
  for (const Disk& disk : points_.guest_.disks) {
    if (disk.read_only) continue;
    store::DiskInfo about{disk.node.target, disk.node.path, disk.node.format, "", ""};
    if (disk.can_snapshot()) {
      nodes_.push_back(disk.node);
    } else {
      about.note = fmt::format("format {} holds no snapshots", disk.node.format);
    }
    info_.disks.push_back(std::move(about));
  }
}

DiskPoints::Attempt::~Attempt() {
  for (const std::string& tag : taken_) {
    if (committed_ && tag == points_.newest_) continue;
    if (tag == points_.newest_) points_.newest_.clear();
    points_.drop(tag);
  }
}

void DiskPoints::Attempt::use(const std::string& tag) {
  for (store::DiskInfo& about : info_.disks) {
    if (about.note.empty()) about.snapshot = tag;
  }
}

void DiskPoints::Attempt::take() {
  const std::string tag = kPrefix + info_.id + (taken_.empty() ? "" : "-" + std::to_string(taken_.size() + 1));
  points_.newest_.clear();
  points_.guest_.machine.snapshot_disks(nodes_, tag, true);
  taken_.push_back(tag);
  points_.newest_ = tag;
  use(tag);
}

bool DiskPoints::Attempt::written() const { return points_.guest_.machine.written_since_snapshot(nodes_); }

bool DiskPoints::Attempt::prepare() {
  if (nodes_.empty()) return true;
  if (std::exchange(points_.was_busy_, false) || early_tries_ == kEarlyTriesMax) return false;
  ++early_tries_;
  if (points_.newest_.empty() || written()) {
    take();
  } else {
    use(points_.newest_);
  }
  return true;
}

void DiskPoints::Attempt::take_stopped() {
  if (!nodes_.empty()) take();
}

bool DiskPoints::Attempt::held() {
  if (nodes_.empty() || !written()) return true;
  points_.was_busy_ = early_tries_ == kEarlyTriesMax;
  return false;
}

void DiskPoints::Attempt::commit() {
  committed_ = true;
  if (!nodes_.empty()) ++points_.users_[points_.newest_];
}

std::string disk_tag(const store::CheckpointInfo& info) {
  const std::string tag = tag_in(info);
  return tag.empty() ? kPrefix + info.id : tag;
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

}  // namespace mhv::checkpoint
