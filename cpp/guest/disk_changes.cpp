#include "guest/disk_changes.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "guest/fdset.h"
#include "guest/job.h"

namespace mhv::guest {
namespace {

using Json = Qmp::Json;

constexpr std::chrono::seconds kTransactionTimeout{120};  // it drains the guest's disks
constexpr const char* kBitmaps[] = {"mhv-written-0", "mhv-written-1"};
constexpr std::string_view kCopy = "mhv-copy-";  // nodes and jobs, by the number of the disk
constexpr const char* kCopyOpaque = "nova-mhv disk copy";

std::string name_of_copy(std::size_t number) { return std::string(kCopy) + std::to_string(number); }

Json bitmap_action(const char* type, const DiskNode& disk, int bitmap) {
  Json data = {{"node", disk.node}, {"name", kBitmaps[bitmap]}};
  if (type == std::string_view("block-dirty-bitmap-add")) data["granularity"] = DiskCluster::kBytes;
  return {{"type", type}, {"data", std::move(data)}};
}

Json backup_action(const DiskNode& disk, int bitmap, const std::string& copy) {
  return {{"type", "blockdev-backup"},
          {"data",
           {{"job-id", copy},
            {"device", disk.node},
            {"target", copy},
            {"sync", "bitmap"},
            {"bitmap", kBitmaps[bitmap]},
            {"bitmap-mode", "never"},
            {"auto-dismiss", false}}}};
}

const Json* find_node(const Json& nodes, const std::string& name) {
  for (const auto& node : nodes) {
    if (text_of(node, "node-name") == name && node.contains("image")) return &node;
  }
  return nullptr;
}

std::uint64_t bytes_of(const Json& node) { return node.at("image").value("virtual-size", std::uint64_t{0}); }

std::optional<std::uint64_t> clusters_in(const Json& node, int bitmap) {
  for (const auto& entry : node.value("dirty-bitmaps", Json::array())) {
    if (text_of(entry, "name") == kBitmaps[bitmap]) return entry.value("count", std::uint64_t{0}) / DiskCluster::kBytes;
  }
  return std::nullopt;
}

}  // namespace

// The bitmap comes first in the transaction: a write that the snapshot has to wait for counts as later, which is safe. Sizes are looked
// at before it: a disk that is resized afterwards has another size than its snapshot, and look() tells.
void DiskChanges::watch(std::span<const DiskNode> disks, const std::string& tag) {
  std::vector<Watched> now = std::exchange(watched_, {});  // until this has succeeded
  const auto same = [](const Watched& watched, const DiskNode& disk) { return watched.node.node == disk.node && !watched.copying; };
  if (!std::equal(now.begin(), now.end(), disks.begin(), disks.end(), same)) {
    now.clear();
    stop(disks);
  }
  const Json nodes = qmp_.call("query-named-block-nodes", {{"flat", true}});
  Json actions = Json::array();
  for (std::size_t i = 0; i < disks.size(); ++i) {
    const bool first = i == now.size();
    if (first) now.emplace_back().node = disks[i];
    const Json* const node = find_node(nodes, disks[i].node);
    now[i].bytes = node == nullptr ? 0 : bytes_of(*node);
    actions.push_back(bitmap_action(first ? "block-dirty-bitmap-add" : "block-dirty-bitmap-clear", disks[i], now[i].bitmap));
  }
  for (const DiskNode& disk : disks) {
    if (!tag.empty()) actions.push_back({{"type", "blockdev-snapshot-internal-sync"}, {"data", {{"device", disk.node}, {"name", tag}}}});
  }
  qmp_.call("transaction", {{"actions", actions}}, {}, kTransactionTimeout);
  watched_ = std::move(now);
}

bool DiskChanges::look() {
  const Json nodes = qmp_.call("query-named-block-nodes", {{"flat", true}});
  looked_ = std::all_of(watched_.begin(), watched_.end(), [&](Watched& disk) {
    const Json* const node = find_node(nodes, disk.node.node);
    if (node == nullptr || bytes_of(*node) != disk.bytes) return false;
    const auto written = clusters_in(*node, disk.bitmap);
    const auto before = disk.has_other ? clusters_in(*node, 1 - disk.bitmap) : 0;
    if (!written || !before) return false;
    disk.written = *written;
    disk.written_before = *before;
    return true;
  });
  if (!looked_) watched_.clear();
  return looked_;
}

std::optional<std::uint64_t> DiskChanges::written() {
  if (watched_.empty() || !look()) return std::nullopt;
  std::uint64_t sum = 0;
  for (const Watched& disk : watched_) sum += disk.written;
  return sum;
}

void DiskChanges::add_node(Watched& disk, std::size_t number) {
  if (!disk.memory || disk.memory_bytes != disk.bytes) {
    Fd memory = Fd::memory("mhv-disk-copy");
    if (::ftruncate(memory.get(), static_cast<off_t>(disk.bytes)) != 0) throw_errno("cannot set the size of a disk's copy");
    disk.path = fdset_path(give_fd(qmp_, memory, kCopyOpaque).set);
    disk.memory = std::move(memory);
    disk.memory_bytes = disk.bytes;
  }
  qmp_.call("blockdev-add", {{"driver", "file"}, {"node-name", name_of_copy(number)}, {"filename", disk.path}, {"locking", "off"}});
}

// A disk that was not written is left out: should it be written before the transaction, its bitmap says so afterwards.
void DiskChanges::copy() {
  std::vector<Watched> now = std::exchange(watched_, {});  // until this has succeeded
  Json actions = Json::array();
  for (std::size_t i = 0; i < now.size(); ++i) {
    Watched& disk = now[i];
    if (disk.written == 0) continue;
    add_node(disk, i);
    const int next = 1 - disk.bitmap;
    if (disk.has_other) {
      actions.push_back(bitmap_action("block-dirty-bitmap-clear", disk.node, next));
      actions.push_back(bitmap_action("block-dirty-bitmap-enable", disk.node, next));
    } else {
      actions.push_back(bitmap_action("block-dirty-bitmap-add", disk.node, next));
    }
    actions.push_back(bitmap_action("block-dirty-bitmap-disable", disk.node, disk.bitmap));
    actions.push_back(backup_action(disk.node, disk.bitmap, name_of_copy(i)));
    disk.bitmap = next;
    disk.has_other = disk.copying = true;
  }
  qmp_.call("transaction", {{"actions", actions}}, {}, kTransactionTimeout);
  watched_ = std::move(now);
  looked_ = false;
}

std::uint64_t DiskChanges::hand_over(const Watched& disk, std::uint32_t number, const EachCluster& each) const {
  std::vector<std::byte> content(DiskCluster::kBytes);
  const int fd = disk.memory.get();
  std::uint64_t count = 0;
  for (off_t at = 0; (at = ::lseek(fd, at, SEEK_DATA)) >= 0; ++count) {
    const DiskCluster cluster{number, static_cast<std::uint64_t>(at) / DiskCluster::kBytes};
    const std::uint64_t from = cluster.index * DiskCluster::kBytes;
    const std::size_t bytes = std::min<std::uint64_t>(DiskCluster::kBytes, disk.memory_bytes - from);
    pread_all(fd, std::span(content).first(bytes), from, "a disk's copy");
    each(cluster, std::span(content).first(bytes));
    at = static_cast<off_t>(from + bytes);
  }
  if (errno != ENXIO) throw_errno("cannot read a disk's copy");  // it is the answer behind the last byte
  if (::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(disk.memory_bytes)) != 0)
    throw_errno("cannot empty a disk's copy");
  return count;
}

// What went wrong, or "". The node does not stay: libvirt's own snapshots of a guest fail where a writable node holds none.
std::string DiskChanges::finish_job(std::size_t number) {
  const std::string name = name_of_copy(number);
  const std::optional<std::string> error = wait_for_job(qmp_, name);
  if (!error) return "its job is gone";
  qmp_.call("job-dismiss", {{"id", name}});
  qmp_.call("blockdev-del", {{"node-name", name}});
  return *error;
}

DiskChanges::Copied DiskChanges::finish_copy(const EachCluster& each) {
  Copied out;
  for (std::size_t i = 0; i < watched_.size() && out.error.empty(); ++i) {
    if (watched_[i].copying) out.error = finish_job(i);
  }
  if (out.error.empty() && !looked_ && !look()) out.error = "a dirty bitmap is gone";
  if (!out.error.empty()) watched_.clear();
  for (std::size_t i = 0; i < watched_.size(); ++i) {
    if (!std::exchange(watched_[i].copying, false)) continue;
    out.written += watched_[i].written_before;
    out.copied += hand_over(watched_[i], static_cast<std::uint32_t>(i), each);
  }
  return out;
}

void DiskChanges::stop(std::span<const DiskNode> disks) {
  watched_.clear();
  for (const auto& entry : qmp_.call("query-jobs")) {
    const std::string job = text_of(entry, "id");
    if (!job.starts_with(kCopy)) continue;
    qmp_.try_call("job-cancel", {{"id", job}});
    if (wait_for_job(qmp_, job)) qmp_.try_call("job-dismiss", {{"id", job}});
  }
  for (const DiskNode& disk : disks) {
    for (const char* bitmap : kBitmaps) qmp_.try_call("block-dirty-bitmap-remove", {{"node", disk.node}, {"name", bitmap}});
  }
  for (const auto& node : qmp_.call("query-named-block-nodes", {{"flat", true}})) {
    const std::string name = text_of(node, "node-name");
    if (name.starts_with(kCopy)) qmp_.try_call("blockdev-del", {{"node-name", name}});
  }
  remove_fdsets(qmp_, kCopyOpaque);
}

}  // namespace mhv::guest
