// Against a real, stock QEMU.
#include "guest/machine.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "guest/fixture_test.h"
#include "guest/stream.h"

namespace mhv::guest {
namespace {

using testing::have_qemu;
using testing::Memory;
using testing::read_all;
using testing::run;
using testing::save;
using testing::TempFolder;
using testing::TestQemu;

// Puts RAM back as a worker does: only what differs. Returns how many pages did, {writable, read-only}.
struct Differing {
  int writable = 0, read_only = 0;
};
Differing put_back(Ram& ram, std::span<const std::byte> wanted) {
  std::vector<std::byte> now(kPageSize);
  Differing pages;
  for (std::uint32_t i = 0; i < ram.pages(); ++i) {
    const auto page = wanted.subspan(std::size_t{i} * kPageSize, kPageSize);
    ram.read({{i}, 1}, now);
    if (std::memcmp(now.data(), page.data(), kPageSize) == 0) continue;
    ram.write({i}, page);
    ++(ram.block_of({i}).read_only ? pages.read_only : pages.writable);
  }
  return pages;
}

bool in_step(const std::vector<std::uint32_t>& counters) {
  return std::is_sorted(counters.rbegin(), counters.rend()) && counters.front() - counters.back() <= 1;
}

void load(Machine& machine, std::span<const std::byte> state, const std::string& type, const std::string& tag,
          std::span<const DiskNode> disks) {
  machine.stage_load(state, type, tag);
  machine.load(tag, disks);
  machine.clean_up_load();
}

class MachineTest : public ::testing::TestWithParam<Memory> {
 protected:
  void SetUp() override {
    if (!have_qemu()) GTEST_SKIP() << "no qemu-system-x86_64";
  }
  std::vector<std::string> with_disk() {
    const std::string image = folder_.file("disk.qcow2");
    EXPECT_EQ(run({"qemu-img", "create", "-q", "-f", "qcow2", image, "16M"}).status, 0);
    return {"-blockdev", "driver=file,node-name=storage,filename=" + image,
            "-blockdev", "driver=qcow2,node-name=format,file=storage",
            "-device",   "virtio-blk-pci,drive=format,id=vd0"};
  }
  static void fill_disk(TestQemu& qemu, const std::string& pattern) {
    EXPECT_EQ(qemu.qmp().hmp("qemu-io -d /machine/peripheral/vd0/virtio-backend \"write -P " + pattern + " 0 1M\""), "");
    EXPECT_EQ(qemu.qmp().hmp("qemu-io -d /machine/peripheral/vd0/virtio-backend flush"), "");
  }
  static void snapshot_disk(TestQemu& qemu, const char* tag) {
    qemu.qmp().call("blockdev-snapshot-internal-sync", {{"device", "format"}, {"name", tag}});
  }
  bool disk_holds(const std::string& pattern) {
    return run({"qemu-io", "-U", "-r", "-f", "qcow2", "-c", "read -P " + pattern + " 0 1M", folder_.file("disk.qcow2")}).status == 0;
  }
  TempFolder folder_;
  const std::vector<DiskNode> disks_ = {{"vda", "format", "", "qcow2"}};
};

TEST_P(MachineTest, RamAndDevicesAndDisksGoBackTogetherAndTheGuestGoesOn) {
  TestQemu qemu(folder_, "a", with_disk(), GetParam());
  Ram ram = qemu.open_ram();
  EXPECT_EQ(ram.blocks().front().shared, GetParam() == Memory::kShared);
  Machine machine(qemu.qmp());
  EXPECT_FALSE(machine.running());
  machine.resume();
  EXPECT_TRUE(machine.running());
  qemu.wait_until_counter_passes(ram, 1000);

  machine.stop();
  EXPECT_FALSE(machine.running());
  fill_disk(qemu, "0x11");
  const auto state = save(qemu.qmp());
  snapshot_disk(qemu, "point");
  const auto memory = read_all(ram);
  const auto counted = qemu.counters(ram);
  ASSERT_TRUE(in_step(counted));

  for (int round = 0; round < 3; ++round) {
    machine.resume();
    qemu.wait_until_counter_passes(ram, counted.front() + 1000);
    machine.stop();
    fill_disk(qemu, "0x22");
    EXPECT_TRUE(disk_holds("0x22"));
    EXPECT_GE(put_back(ram, memory).writable, TestQemu::kCounters);
    load(machine, state, qemu.machine(), "point", disks_);
    EXPECT_FALSE(machine.running());
    EXPECT_TRUE(disk_holds("0x11"));
    const auto after = put_back(ram, memory);
    EXPECT_EQ(after.writable, 0);
    EXPECT_GT(after.read_only, 0);  // the ACPI tables are as before the firmware read them
    EXPECT_EQ(put_back(ram, memory).read_only, 0);
    EXPECT_EQ(qemu.counters(ram), counted);
  }
  machine.resume();
  qemu.wait_until_counter_passes(ram, counted.front() + 1);
  machine.stop();
  EXPECT_TRUE(in_step(qemu.counters(ram)));

  machine.delete_disk_snapshot(disks_[0], "point");
  machine.delete_disk_snapshot(disks_[0], "point");  // gone already
  EXPECT_THROW(machine.delete_disk_snapshot({"vdz", "no-such-node", "", ""}, "point"), Error);
  EXPECT_EQ(run({"qemu-img", "snapshot", "-U", "-l", folder_.file("disk.qcow2")}).text.find("point"), std::string::npos);
}

// The tag is on the crafted node but not on the disk: QEMU refuses after it has taken up the node.
TEST_P(MachineTest, AFailedLoadLeavesNothingBehindAndMayBeTriedAgain) {
  TestQemu qemu(folder_, "a", with_disk(), GetParam());
  Ram ram = qemu.open_ram();
  Machine machine(qemu.qmp());
  machine.resume();
  qemu.wait_until_counter_passes(ram, 10);
  machine.stop();
  const auto state = save(qemu.qmp());
  const auto memory = read_all(ram);
  const auto counted = qemu.counters(ram);
  const std::size_t sets = qemu.qmp().call("query-fdsets").size();
  try {
    load(machine, state, qemu.machine(), "missing", disks_);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kInternal) << error.what();
  }
  EXPECT_FALSE(machine.running());
  EXPECT_EQ(qemu.qmp().call("query-fdsets").size(), sets);
  EXPECT_TRUE(qemu.qmp().call("query-jobs").empty());
  auto broken = state;
  std::fill(broken.begin() + static_cast<std::ptrdiff_t>(broken.size() / 2), broken.end() - 1, std::byte{0xff});
  EXPECT_THROW(load(machine, broken, qemu.machine(), "state-only", {}), Error);
  put_back(ram, memory);
  load(machine, state, qemu.machine(), "state-only", {});
  put_back(ram, memory);
  EXPECT_EQ(qemu.counters(ram), counted);
  machine.resume();
  qemu.wait_until_counter_passes(ram, counted.front() + 1);
}

// Killed while it loaded: the node, the set and the job are still there.
TEST_P(MachineTest, CleansUpAfterAFormerEngine) {
  TestQemu qemu(folder_, "a", {}, GetParam());
  const Ram ram = qemu.open_ram();
  const auto state = save(qemu.qmp());
  EXPECT_TRUE(qemu.qmp().call("query-fdsets").empty());
  const Fd left = Fd::memory("left");
  const int number = left.get();
  qemu.qmp().call("add-fd", {{"opaque", "nova-mhv load"}}, std::span(&number, 1));
  qemu.qmp().call("add-fd", {{"opaque", "nova-mhv device state"}}, std::span(&number, 1));
  qemu.qmp().call("blockdev-add", {{"driver", "null-co"}, {"node-name", "mhv-load"}, {"read-zeroes", true}});
  Machine machine(qemu.qmp());
  EXPECT_EQ(save(qemu.qmp()).size(), state.size());
  load(machine, state, qemu.machine(), "point", {});
  EXPECT_TRUE(qemu.qmp().call("query-fdsets").empty());
}

TEST_P(MachineTest, KnowsWhetherTheGuestCanGiveMemoryBack) {
  TestQemu without(folder_, "a", {}, GetParam());
  EXPECT_FALSE(Machine(without.qmp()).has_balloon());
  for (const char* device : {"virtio-balloon-pci,id=balloon0", "virtio-balloon-pci"}) {
    TestQemu with(folder_, "b", {"-device", device}, GetParam());
    EXPECT_TRUE(Machine(with.qmp()).has_balloon());
  }
}

// Requests that a slow disk has not answered write guest memory later, behind the back of page tables.
TEST_P(MachineTest, DrainWaitsForRequestsUnderWay) {
  auto arguments = with_disk();
  arguments[5] = "virtio-blk-pci,drive=slow,id=vd0";
  arguments.insert(arguments.begin() + 4, {"-object", "throttle-group,id=limits,x-iops-total=1", "-blockdev",
                                           "driver=throttle,node-name=slow,throttle-group=limits,file=format"});
  TestQemu qemu(folder_, "a", arguments, GetParam());
  Machine machine(qemu.qmp());
  machine.resume();
  qemu.qmp().call("block-dirty-bitmap-add", {{"node", "format"}, {"name", "answered"}, {"granularity", 65536}});
  const auto answered = [&] {
    for (const auto& node : qemu.qmp().call("query-named-block-nodes", {{"flat", true}})) {
      if (node.at("node-name") == "format") return node.at("dirty-bitmaps").at(0).at("count").get<int>() / 65536;
    }
    return -1;
  };
  for (const char* at : {"0", "1M", "2M"}) {
    qemu.qmp().hmp(std::string("qemu-io -d /machine/peripheral/vd0/virtio-backend \"aio_write ") + at + " 4k\"");
  }
  EXPECT_LT(answered(), 3) << "the disk is not slow";
  machine.drain_disks();
  EXPECT_EQ(answered(), 3);
  EXPECT_TRUE(machine.running());
}

// A disk served by a thread of its own.
TEST_P(MachineTest, DisksOnAnIothreadGoBackToo) {
  auto arguments = with_disk();
  arguments.back() += ",iothread=io";
  arguments.insert(arguments.begin(), {"-object", "iothread,id=io"});
  TestQemu qemu(folder_, "a", arguments, GetParam());
  Ram ram = qemu.open_ram();
  Machine machine(qemu.qmp());
  machine.resume();
  qemu.wait_until_counter_passes(ram, 10);
  machine.stop();
  fill_disk(qemu, "0x11");
  const auto state = save(qemu.qmp());
  snapshot_disk(qemu, "point");
  const auto memory = read_all(ram);
  fill_disk(qemu, "0x22");
  load(machine, state, qemu.machine(), "point", disks_);
  put_back(ram, memory);
  EXPECT_TRUE(disk_holds("0x11"));
  machine.resume();
  qemu.wait_until_counter_passes(ram, qemu.counters(ram).front() + 10);
}

// The frame buffer of a VGA is a writable block: the reset inside the load leaves it alone.
TEST_P(MachineTest, VideoMemoryIsNotChangedByALoad) {
  TestQemu qemu(folder_, "a", {"-vga", "std"}, GetParam());
  Ram ram = qemu.open_ram();
  Machine machine(qemu.qmp());
  machine.resume();
  qemu.wait_until_counter_passes(ram, 10);
  machine.stop();
  const auto state = save(qemu.qmp());
  const auto memory = read_all(ram);
  load(machine, state, qemu.machine(), "point", {});
  EXPECT_EQ(put_back(ram, memory).writable, 0);
}

INSTANTIATE_TEST_SUITE_P(Memories, MachineTest, ::testing::Values(Memory::kPrivate, Memory::kShared),
                         [](const auto& parameter) { return parameter.param == Memory::kShared ? "shared" : "anonymous"; });

}  // namespace
}  // namespace mhv::guest
