#include "checkpoint/disk_points.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace mhv::checkpoint {
namespace {

constexpr const char* kPrefix = "mhv-";
// Pauses that are given up because a disk was written just before. One more costs the guest less than a snapshot in a pause.
constexpr int kEarlyTriesMax = 2;
// Of a disk that is written again and again, so many checkpoints at most have their point taken in the pause before one tries otherwise.
constexpr int kBusyMax = 64;
// After so many checkpoints in a row without a write, QEMU is not asked before the pause, only after it: it has the guest's lock meanwhile.
constexpr int kQuiet = 8;

// "": it has no disk with a point.
std::string tag_in(const store::CheckpointInfo& info) {
  for (const store::DiskInfo& disk : info.disks) {
    if (!disk.snapshot.empty()) return disk.snapshot;
  }
  return {};
}

}  // namespace

DiskPoints::DiskPoints(guest::LiveGuest& guest, const store::Store& store, bool wanted) : guest_(guest), wanted_(wanted) {
  for (const store::CheckpointInfo& info : store.list()) {
    if (const std::string tag = tag_in(info); !tag.empty()) ++users_[tag];
  }
  drop_orphans();
}

std::vector<guest::DiskNode> DiskPoints::nodes() const {
  std::vector<guest::DiskNode> out;
  for (const guest::Disk& disk : guest_.disks) {
    if (disk.can_snapshot()) out.push_back(disk.node);
  }
  return out;
}

void DiskPoints::leave() {
  guest_.disk_changes.stop(nodes());
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

DiskPoints::Attempt::Attempt(DiskPoints& points, store::CheckpointInfo& info) : points_(points), info_(info), slots_(points.slots_) {
  if (!points_.wanted_) return;
  for (const guest::Disk& disk : points_.guest_.disks) {
    if (disk.read_only) continue;
    store::DiskInfo about{disk.node.target, disk.node.path, disk.node.format, "", ""};
    if (disk.can_snapshot()) {
      nodes_.push_back(disk.node);
      places_.push_back(static_cast<std::uint32_t>(info_.disks.size()));
    } else {
      about.note = fmt::format("format {} holds no snapshots", disk.node.format);
    }
    info_.disks.push_back(std::move(about));
  }
}

DiskPoints::Attempt::~Attempt() {
  if (moved_ && !committed_) points_.newest_.clear();
  for (const std::string& tag : taken_) {
    if (tag != points_.newest_) points_.drop(tag);
  }
}

void DiskPoints::Attempt::use(const std::string& tag) {
  for (store::DiskInfo& about : info_.disks) {
    if (about.note.empty()) about.snapshot = tag;
  }
}

void DiskPoints::Attempt::snapshot() {
  const std::string tag = kPrefix + info_.id + (taken_.empty() ? "" : "-" + std::to_string(taken_.size() + 1));
  moved_ = true;
  points_.newest_.clear();
  points_.guest_.disk_changes.watch(nodes_, tag);
  taken_.push_back(tag);
  points_.newest_ = tag;
  copied_.clear();
  slots_.clear();
  use(tag);
}

bool DiskPoints::Attempt::stands() const {
  const bool inherits = info_.parent == points_.base_ || !taken_.empty();
  return !points_.newest_.empty() && inherits;
}

// What is in the area already, and what this attempt copied before, may be written once more: an upper bound.
void DiskPoints::Attempt::take() {
  guest::DiskChanges& changes = points_.guest_.disk_changes;
  if (!stands()) return snapshot();
  const std::optional<std::uint64_t> written = changes.written();
  if (!written || slots_.size() + copied_.size() + *written > kAreaSlots) return snapshot();
  if (*written > 0 && !begin_copy()) return snapshot();
  use(points_.newest_);
}

bool DiskPoints::Attempt::begin_copy() {
  moved_ = true;
  try {
    points_.guest_.disk_changes.copy();
    copying_ = true;
  } catch (const Error& error) {
    if (error.code() != Code::kInvalid) throw;
    spdlog::warn("a snapshot in the disk's image instead of a copy of what was written: {}", error.what());
  }
  return copying_;
}

bool DiskPoints::Attempt::finish_copy() {
  if (!std::exchange(copying_, false)) return true;
  const auto keep = [this](guest::DiskCluster cluster, std::span<const std::byte> content) {
    copied_[cluster].assign(content.begin(), content.end());
  };
  const guest::DiskChanges::Copied copied = points_.guest_.disk_changes.finish_copy(keep);
  if (!copied.error.empty()) spdlog::warn("QEMU could not copy what was written to a disk: {}", copied.error);
  return copied.whole();
}

bool DiskPoints::Attempt::prepare() {
  if (nodes_.empty()) return true;
  if (early_tries_ == kEarlyTriesMax) return false;
  if (early_tries_ == 0 && points_.busy_ > 0) {
    --points_.busy_;
    return false;
  }
  if (++early_tries_ == 1 && points_.quiet_ >= kQuiet && stands()) {
    use(points_.newest_);
  } else {
    take();
  }
  return true;
}

void DiskPoints::Attempt::take_stopped() {
  if (nodes_.empty()) return;
  take();
  if (!finish_copy()) snapshot();
}

bool DiskPoints::Attempt::held() {
  if (nodes_.empty()) return true;
  const bool written = points_.guest_.disk_changes.written() != std::uint64_t{0};  // first: the guest goes on writing
  if (!written) {
    points_.busy_next_ = 1;
  } else if (early_tries_ == kEarlyTriesMax) {
    points_.busy_ = std::exchange(points_.busy_next_, std::min(2 * points_.busy_next_, kBusyMax));
  }
  const bool whole = finish_copy();
  if (!whole) points_.newest_.clear();
  return whole && !written;
}

// Where disks have no points any more, the child is not to inherit what its parent says of them.
void DiskPoints::Attempt::put(store::Writer& writer) {
  if (nodes_.empty()) slots_.clear();
  const std::uint32_t first = points_.guest_.ram.pages();
  const auto put_pages = [&](std::uint32_t page, std::span<const std::byte> content) {
    for (std::size_t at = 0; at < content.size(); at += kPageSize)
      writer.put(PageNo{page++}, std::span<const std::byte, kPageSize>(content.data() + at, kPageSize));
  };
  for (auto& [cluster, content] : copied_) {
    content.resize(guest::DiskCluster::kBytes);  // the last of a disk may be shorter
    const guest::DiskCluster named{places_[cluster.disk], cluster.index};
    const std::uint32_t slot = slots_.try_emplace(named, static_cast<std::uint32_t>(slots_.size())).first->second;
    put_pages(first + kDirectoryPages + slot * kSlotPages, content);
  }
  put_pages(first, disk_directory(slots_));
  for (const auto& [cluster, slot] : slots_) info_.disks[cluster.disk].changed_bytes += guest::DiskCluster::kBytes;
}

void DiskPoints::Attempt::commit() {
  committed_ = true;
  if (nodes_.empty()) return;
  ++points_.users_[points_.newest_];
  points_.slots_ = std::move(slots_);
  points_.base_ = info_.id;
  points_.quiet_ = moved_ ? 0 : points_.quiet_ + 1;
}

std::string disk_tag(const store::CheckpointInfo& info) {
  const std::string tag = tag_in(info);
  return tag.empty() ? kPrefix + info.id : tag;
}

std::map<std::string, std::set<std::string>> disk_snapshots(guest::LiveGuest& guest) {
  using Json = guest::Qmp::Json;
  std::map<std::string, std::set<std::string>> out;
  const Json nodes = guest.qmp.call("query-named-block-nodes", {{"flat", true}});
  for (const guest::Disk& disk : guest.disks) {
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
