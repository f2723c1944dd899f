// Against a real, stock QEMU, whose disks are written through their own device, as the guest would.
#include "guest/disk_changes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "guest/disk_writer.h"
#include "guest/fixture_test.h"

namespace mhv::guest {
namespace {

using testing::have_qemu;
using testing::run;
using testing::TempFolder;
using testing::TestQemu;

constexpr std::size_t kBytes = DiskCluster::kBytes;
using Clusters = std::map<DiskCluster, std::vector<std::byte>>;

class DiskChangesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!have_qemu()) GTEST_SKIP() << "no qemu-system-x86_64";
  }
  // A disk `name` of that size, as device `name`.
  std::vector<std::string> disk(const std::string& name, const std::string& size, const std::string& device = "") {
    const std::string image = folder_.file(name + ".qcow2");
    EXPECT_EQ(run({"qemu-img", "create", "-q", "-f", "qcow2", image, size}).status, 0);
    return {"-blockdev", "driver=file,node-name=file-" + name + ",filename=" + image,
            "-blockdev", "driver=qcow2,node-name=" + name + ",file=file-" + name,
            "-device",   "virtio-blk-pci,drive=" + name + ",id=dev-" + name + device};
  }
  static void io(TestQemu& qemu, const std::string& name, const std::string& command) {
    EXPECT_EQ(qemu.qmp().hmp("qemu-io -d /machine/peripheral/dev-" + name + "/virtio-backend \"" + command + "\""), "");
  }
  bool holds(const std::string& name, const std::string& command) {
    return run({"qemu-io", "-U", "-r", "-f", "qcow2", "-c", "read -P " + command, folder_.file(name + ".qcow2")}).status == 0;
  }
  static std::vector<std::string> join(std::vector<std::string> a, const std::vector<std::string>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }
  static Clusters take(DiskChanges& changes) {
    Clusters out;
    const auto copied = changes.finish_copy([&](DiskCluster cluster, std::span<const std::byte> content) {
      EXPECT_TRUE(out.emplace(cluster, std::vector(content.begin(), content.end())).second);
    });
    EXPECT_TRUE(copied.whole()) << copied.written << " written, " << copied.copied << " copied";
    EXPECT_EQ(copied.copied, out.size());
    return out;
  }
  static std::vector<std::byte> filled(int value, std::size_t bytes = kBytes) { return {bytes, std::byte(value)}; }

  TempFolder folder_;
  const std::vector<DiskNode> disks_ = {{"vda", "a", "", "qcow2"}};
};

TEST_F(DiskChangesTest, CopiesWhatWasWrittenSinceTheLastMoment) {
  TestQemu qemu(folder_, "q", disk("a", "16M"));
  qemu.qmp().call("cont");
  DiskChanges changes(qemu.qmp());
  EXPECT_EQ(changes.written(), std::nullopt) << "nothing watches";
  io(qemu, "a", "write -P 1 0 64k");
  changes.watch(disks_, "point");
  EXPECT_EQ(changes.written(), 0u);
  io(qemu, "a", "write -P 2 64k 4k");
  io(qemu, "a", "write -P 3 1M 128k");
  EXPECT_EQ(changes.written(), 3u);
  changes.copy();
  EXPECT_EQ(changes.written(), 0u) << "the copy is a new moment";
  Clusters seen = take(changes);
  auto second = filled(0);
  std::fill_n(second.begin(), 4096, std::byte{2});
  EXPECT_EQ(seen, (Clusters{{{0, 1}, second}, {{0, 16}, filled(3)}, {{0, 17}, filled(3)}}));

  for (int round = 4; round < 10; ++round) {  // the two bitmaps take turns
    io(qemu, "a", "write -P " + std::to_string(round) + " 128k 64k");
    EXPECT_EQ(changes.written(), 1u);
    changes.copy();
    EXPECT_EQ(take(changes), (Clusters{{{0, 2}, filled(round)}}));
  }
  changes.stop(disks_);
  EXPECT_EQ(changes.written(), std::nullopt);
  EXPECT_TRUE(qemu.qmp().call("query-fdsets").empty());
  EXPECT_TRUE(qemu.qmp().call("query-jobs").empty());
}

// What makes the copy one of a moment: it is slow here, and the guest writes again before it is done.
TEST_F(DiskChangesTest, AWriteAfterTheMomentIsNotInTheCopy) {
  auto arguments = disk("a", "16M");
  arguments[1] += "-slow";
  arguments[1].replace(arguments[1].find("node-name=file-a"), 16, "node-name=below");
  arguments[1].erase(arguments[1].size() - 5);
  arguments.insert(arguments.begin(), {"-object", "throttle-group,id=limits,x-bps-read=131072"});
  arguments.insert(arguments.begin() + 4, {"-blockdev", "driver=throttle,node-name=file-a,throttle-group=limits,file=below"});
  TestQemu qemu(folder_, "q", arguments);
  qemu.qmp().call("cont");
  DiskChanges changes(qemu.qmp());
  changes.watch(disks_);
  io(qemu, "a", "write -P 1 0 512k");
  EXPECT_EQ(changes.written(), 8u);
  changes.copy();
  io(qemu, "a", "aio_write -P 2 448k 64k");
  EXPECT_FALSE(qemu.qmp().call("query-jobs").empty()) << "the copy was not slow";
  const Clusters seen = take(changes);
  EXPECT_EQ(seen.size(), 8u);
  for (const auto& [cluster, content] : seen) EXPECT_EQ(content, filled(1)) << cluster.index;
  qemu.qmp().call("transaction", {{"actions", Qmp::Json::array()}});  // the write has ended
  EXPECT_EQ(changes.written(), 1u);
  io(qemu, "a", "flush");
  EXPECT_TRUE(holds("a", "2 448k 64k"));
}

TEST_F(DiskChangesTest, SeveralDisksHaveOneMoment) {
  TestQemu qemu(folder_, "q", join(disk("a", "16M"), disk("b", "8M")));
  const std::vector<DiskNode> both = {disks_[0], {"vdb", "b", "", "qcow2"}};
  DiskChanges changes(qemu.qmp());
  changes.watch(both, "point");
  io(qemu, "b", "write -P 1 0 64k");
  EXPECT_EQ(changes.written(), 1u);
  io(qemu, "a", "write -P 2 0 64k");  // not seen by the look before the copy: part of the next one
  changes.copy();
  EXPECT_EQ(take(changes), (Clusters{{{1, 0}, filled(1)}}));
  EXPECT_EQ(changes.written(), 1u);
  changes.copy();
  EXPECT_EQ(take(changes), (Clusters{{{0, 0}, filled(2)}}));
}

// A cluster that is zeroed without a write leaves none in the copy, and so nobody knows which it was.
TEST_F(DiskChangesTest, ZeroedClustersAreMissed) {
  TestQemu qemu(folder_, "q", disk("a", "16M"));
  io(qemu, "a", "write -P 1 0 256k");
  DiskChanges changes(qemu.qmp());
  changes.watch(disks_);
  io(qemu, "a", "write -z 64k 64k");
  io(qemu, "a", "write -P 2 128k 64k");
  io(qemu, "a", "write -P 0 192k 64k");
  EXPECT_EQ(changes.written(), 3u);
  changes.copy();
  Clusters seen;
  const auto copied = changes.finish_copy(
      [&](DiskCluster cluster, std::span<const std::byte> content) { seen.emplace(cluster, std::vector(content.begin(), content.end())); });
  EXPECT_FALSE(copied.whole());
  EXPECT_EQ(copied.written, 3u);
  EXPECT_EQ(seen, (Clusters{{{0, 2}, filled(2)}, {{0, 3}, filled(0)}}));
}

// 1 MiB and 8.5 KiB: the last cluster is short.
TEST_F(DiskChangesTest, TheLastClusterMayBeShort) {
  TestQemu qemu(folder_, "q", disk("a", "1057280"));
  DiskChanges changes(qemu.qmp());
  changes.watch(disks_);
  io(qemu, "a", "write -P 7 1M 8704");
  EXPECT_EQ(changes.written(), 1u);
  changes.copy();
  EXPECT_EQ(take(changes), (Clusters{{{0, 16}, filled(7, 8704)}}));
}

// Its snapshot has another size: nothing may stand on that.
TEST_F(DiskChangesTest, ADiskThatGrewIsWatchedAnew) {
  TestQemu qemu(folder_, "q", disk("a", "1M"));
  DiskChanges changes(qemu.qmp());
  changes.watch(disks_);
  io(qemu, "a", "write -P 1 0 64k");
  changes.written();
  changes.copy();
  take(changes);
  qemu.qmp().call("block_resize", {{"node-name", "a"}, {"size", 4 << 20}});
  EXPECT_EQ(changes.written(), std::nullopt);
  changes.watch(disks_);
  io(qemu, "a", "write -P 2 3M 64k");
  EXPECT_EQ(changes.written(), 1u);
  changes.copy();
  EXPECT_EQ(take(changes), (Clusters{{{0, 48}, filled(2)}}));
}

TEST_F(DiskChangesTest, ADiskOnAnIothread) {
  auto arguments = disk("a", "16M", ",iothread=io");
  arguments.insert(arguments.begin(), {"-object", "iothread,id=io"});
  TestQemu qemu(folder_, "q", arguments);
  qemu.qmp().call("cont");
  DiskChanges changes(qemu.qmp());
  changes.watch(disks_, "point");
  for (int round = 1; round < 4; ++round) {
    io(qemu, "a", "write -P " + std::to_string(round) + " 0 64k");
    EXPECT_EQ(changes.written(), 1u);
    changes.copy();
    EXPECT_EQ(take(changes), (Clusters{{{0, 0}, filled(round)}}));
  }
}

// One disk of two cannot take a snapshot: the other must not have one either.
TEST_F(DiskChangesTest, SnapshotsOfSeveralDisksAreAllOrNone) {
  const auto raw = {std::string("-blockdev"), std::string("driver=null-co,node-name=raw,read-zeroes=on"), std::string("-device"),
                    std::string("virtio-blk-pci,drive=raw")};
  TestQemu qemu(folder_, "q", join(disk("a", "16M"), raw));
  DiskChanges changes(qemu.qmp());
  const std::vector<DiskNode> both = {disks_[0], {"vdb", "raw", "", "raw"}};
  EXPECT_THROW(changes.watch(both, "point"), Error);
  EXPECT_EQ(changes.written(), std::nullopt);
  EXPECT_EQ(run({"qemu-img", "snapshot", "-U", "-l", folder_.file("a.qcow2")}).text.find("point"), std::string::npos);
  changes.watch(disks_, "point");
  EXPECT_NE(run({"qemu-img", "snapshot", "-U", "-l", folder_.file("a.qcow2")}).text.find("point"), std::string::npos);
}

// Killed while QEMU copied: bitmaps, nodes, descriptors and the job are still there.
TEST_F(DiskChangesTest, WhatAFormerEngineLeftIsRemoved) {
  TestQemu qemu(folder_, "q", disk("a", "16M"));
  {
    DiskChanges former(qemu.qmp());
    former.watch(disks_);
    io(qemu, "a", "write -P 1 0 64k");
    former.written();
    former.copy();
  }
  DiskChanges changes(qemu.qmp());
  changes.watch(disks_, "point");
  EXPECT_TRUE(qemu.qmp().call("query-jobs").empty());
  io(qemu, "a", "write -P 2 64k 64k");
  EXPECT_EQ(changes.written(), 1u);
  changes.copy();
  EXPECT_EQ(take(changes), (Clusters{{{0, 1}, filled(2)}}));
}

TEST_F(DiskChangesTest, ABitmapThatSomebodyTakesAwayIsNoticed) {
  TestQemu qemu(folder_, "q", disk("a", "16M"));
  DiskChanges changes(qemu.qmp());
  changes.watch(disks_);
  qemu.qmp().call("block-dirty-bitmap-remove", {{"node", "a"}, {"name", "mhv-written-0"}});
  EXPECT_EQ(changes.written(), std::nullopt);
  changes.watch(disks_);
  EXPECT_EQ(changes.written(), 0u);
  qemu.qmp().call("block-dirty-bitmap-remove", {{"node", "a"}, {"name", "mhv-written-0"}});
  EXPECT_THROW(changes.watch(disks_), Error);
  changes.watch(disks_);
  EXPECT_EQ(changes.written(), 0u);
}

TEST_F(DiskChangesTest, AStoppedGuestsDiskIsWrittenThroughItsDevice) {
  TestQemu qemu(folder_, "q", disk("a", "1057280"));
  DiskWriter writer(qemu.qmp(), disks_);
  writer.probe();
  writer.probe();
  EXPECT_EQ(writer.bytes_of(disks_[0]), 1057280u);
  DiskChanges changes(qemu.qmp());
  changes.watch(disks_);
  writer.write(disks_[0], 0, filled(1, 2 * kBytes));
  writer.write(disks_[0], 1 << 20, filled(2, 8704));
  writer.flush(disks_[0]);
  EXPECT_EQ(changes.written(), 3u);
  changes.copy();
  EXPECT_EQ(take(changes), (Clusters{{{0, 0}, filled(1)}, {{0, 1}, filled(1)}, {{0, 16}, filled(2, 8704)}}));
  EXPECT_TRUE(holds("a", "1 0 128k") && holds("a", "2 1M 8704"));
  EXPECT_THROW(DiskWriter(qemu.qmp(), std::vector<DiskNode>{{"vdb", "file-a", "", "file"}}), Error) << "no device has it";
}

}  // namespace
}  // namespace mhv::guest
