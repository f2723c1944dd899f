#include "checkpoint/disk_area.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/code_of_test.h"
#include "checkpoint/disk_area_testing.h"

namespace mhv::checkpoint {
namespace {

using guest::DiskCluster;
using testing::Change;
using testing::cluster_content;
using testing::DiskStore;

constexpr std::uint64_t kClusterMax = (std::uint64_t{1} << 48) - 2;

std::vector<std::byte> with_entry(std::vector<std::byte> directory, std::size_t slot, std::uint64_t entry) {
  std::memcpy(directory.data() + slot * sizeof entry, &entry, sizeof entry);
  return directory;
}

TEST(DiskDirectory, RoundTrips) {
  const DiskSlots some{{{0, 0}, 1023}, {{0, 7}, 0}, {{2, 7}, 5}, {{2, kClusterMax}, 6}};
  EXPECT_EQ(disk_directory(some).size(), kDirectoryPages * kPageSize);
  EXPECT_EQ(parse_disk_directory(disk_directory(some), 3), some);
  EXPECT_EQ(parse_disk_directory(disk_directory({}), 0), DiskSlots{});
  DiskSlots full;
  for (std::uint32_t slot = 0; slot < kAreaSlots; ++slot) full[{slot % 3, 1000 - slot / 3}] = slot;
  ASSERT_EQ(full.size(), kAreaSlots);
  EXPECT_EQ(parse_disk_directory(disk_directory(full), 3), full);
}

TEST(DiskDirectory, IsRefusedWhenDamaged) {
  const auto good = disk_directory({{{0, 7}, 0}, {{1, 7}, 3}});
  const auto refused = [](std::span<const std::byte> directory, std::size_t disks) {
    return code_of([&] { parse_disk_directory(directory, disks); });
  };
  EXPECT_EQ(refused(good, 1), Code::kCorrupt) << "a disk that is not there";
  EXPECT_EQ(refused(good, 0), Code::kCorrupt);
  EXPECT_EQ(refused(with_entry(good, 9, 8), 2), Code::kCorrupt) << "a cluster twice";
  EXPECT_EQ(refused(with_entry(good, 9, std::uint64_t{1} << 48), 2), Code::kCorrupt) << "of disk 1, and no cluster";
  EXPECT_EQ(refused(with_entry(good, 9, ~std::uint64_t{0}), 2), Code::kCorrupt);
  EXPECT_EQ(refused(std::span(good).first(good.size() - 1), 2), Code::kCorrupt);
  EXPECT_EQ(refused({}, 2), Code::kCorrupt);
  auto longer = good;
  longer.push_back({});
  EXPECT_EQ(refused(longer, 2), Code::kCorrupt);
}

class DiskAreaTest : public ::testing::Test {
 protected:
  DiskArea area(const std::string& id) {
    info_ = (*store_).get_without_xml(id);
    table_ = (*store_).resolve(id);
    return DiskArea(*store_, info_, table_);
  }
  static std::vector<std::byte> read(const DiskArea& area, std::uint32_t slot) {
    std::vector<std::byte> out(DiskCluster::kBytes);
    area.read(slot, out);
    return out;
  }

  DiskStore store_;
  store::CheckpointInfo info_;
  store::PageTable table_;
};

TEST_F(DiskAreaTest, HoldsWhatWasPut) {
  const std::vector<Change> changes{{{0, 0}, 9, 1}, {{0, 70'000}, 0, 2}, {{1, 0}, 1023, 3}};
  const DiskArea found = area(store_.root_with(1, changes));
  EXPECT_EQ(found.slots().size(), changes.size());
  for (const Change& change : changes) {
    ASSERT_EQ(found.slots().at(change.cluster), change.slot);
    EXPECT_EQ(read(found, change.slot), cluster_content(change.number));
  }
}

TEST_F(DiskAreaTest, IsNotOfTheGuestsMemory) {
  EXPECT_EQ(memory_blocks(DiskStore::info(1, true)), DiskStore::info(1, false).blocks);
  EXPECT_EQ(memory_blocks(DiskStore::info(1, false)), DiskStore::info(1, false).blocks);
  EXPECT_TRUE(memory_blocks({}).empty());
}

TEST_F(DiskAreaTest, IsAbsentInOldCheckpoints) {
  EXPECT_TRUE(area(DiskStore::commit(store_.begin(), DiskStore::info(1, false))).slots().empty());
}

TEST_F(DiskAreaTest, IsInheritedByAChild) {
  const std::string parent = store_.root_with(1, std::vector<Change>{{{1, 4}, 2, 1}});
  const DiskArea found = area(DiskStore::commit(store_.begin(parent), DiskStore::info(2)));
  EXPECT_EQ(found.slots(), (DiskSlots{{{1, 4}, 2}}));
  EXPECT_EQ(read(found, 2), cluster_content(1));
}

TEST_F(DiskAreaTest, IsEmptyAfterPagesOfZerosWerePut) {
  const std::string parent = store_.root_with(1, std::vector<Change>{{{1, 4}, 2, 1}});
  store::Writer writer = store_.begin(parent);
  DiskStore::put(writer, DiskStore::kMemoryPages, disk_directory({}));
  const std::string child = DiskStore::commit(std::move(writer), DiskStore::info(2));
  EXPECT_TRUE(area(child).slots().empty());
  EXPECT_EQ(area(parent).slots().size(), 1u);
}

TEST_F(DiskAreaTest, IsRefusedWhenDamaged) {
  const std::string bad = store_.root_with(1, with_entry(disk_directory({}), 0, std::uint64_t{3} << 48 | 1));
  EXPECT_EQ(code_of([&] { area(bad); }), Code::kCorrupt);
  const std::string good = store_.root_with(2, std::vector<Change>{});
  EXPECT_TRUE(area(good).slots().empty());
  table_.pop_back();
  EXPECT_EQ(code_of([&] { DiskArea(*store_, info_, table_); }), Code::kCorrupt);
}

}  // namespace
}  // namespace mhv::checkpoint
