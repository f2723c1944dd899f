// For tests: a store whose checkpoints hold memory of a few pages and, behind it, changes of their disks.
#pragma once

#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/disk_area.h"
#include "store/store_testing.h"

namespace mhv::checkpoint::testing {

// What a cluster holds: pages content(number * 16) and on.
struct Change {
  guest::DiskCluster cluster;
  std::uint32_t slot;
  std::uint32_t number;
};

inline std::vector<std::byte> cluster_content(std::uint32_t number) {
  std::vector<std::byte> out;
  for (std::uint32_t i = 0; i < kSlotPages; ++i) {
    const store::Page page = store::content(number * kSlotPages + i);
    out.insert(out.end(), page.begin(), page.end());
  }
  return out;
}

class DiskStore {
 public:
  static constexpr std::uint32_t kMemoryPages = 16;

  store::Store& operator*() { return *store_; }

  // Memory is the same in all roots. vda and vdb have a snapshot, vdc has none.
  static store::CheckpointInfo info(unsigned id, bool with_area = true) {
    store::CheckpointInfo out = store::Model(kMemoryPages).info(id);
    out.disks = {{"vda", "/a", "qcow2", "s", ""}, {"vdb", "/b", "qcow2", "s", ""}, {"vdc", "/c", "raw", "", "holds none"}};
    if (with_area) out.blocks.push_back(disk_area());
    return out;
  }
  store::Writer begin(const std::string& parent = {}) {
    store::Writer writer = store_->begin(parent);
    for (std::uint32_t i = 0; parent.empty() && i < kMemoryPages; ++i) writer.put(PageNo{i}, store::content(i % 5));
    return writer;
  }
  static void put(store::Writer& writer, std::uint32_t first, std::span<const std::byte> pages) {
    for (; !pages.empty(); pages = pages.subspan(kPageSize)) writer.put(PageNo{first++}, pages.first<kPageSize>());
  }
  static std::string commit(store::Writer writer, store::CheckpointInfo info) {
    using namespace std::string_view_literals;
    const auto state = "QEVM\0\0\0\3\4\0\0\0\1\5timer\0\0\0\0\0\0\0\2body\x7e\0\0\0\1\0"sv;
    writer.put_device_state(std::as_bytes(std::span(state)));
    return writer.commit(std::move(info)).id;
  }

  std::string root_with(unsigned id, std::span<const std::byte> directory) {
    store::Writer writer = begin();
    put(writer, kMemoryPages, directory);
    return commit(std::move(writer), info(id));
  }
  std::string root_with(unsigned id, std::span<const Change> changes) {
    store::Writer writer = begin();
    DiskSlots slots;
    for (const Change& change : changes) {
      slots[change.cluster] = change.slot;
      put(writer, kMemoryPages + kDirectoryPages + change.slot * kSlotPages, cluster_content(change.number));
    }
    put(writer, kMemoryPages, disk_directory(slots));
    return commit(std::move(writer), info(id));
  }

 private:
  store::TempFolder folder_;
  std::unique_ptr<store::Store> store_ = store::Store::open(folder_.path());
};

}  // namespace mhv::checkpoint::testing
