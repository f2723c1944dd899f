#include "checkpoint/export.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/code_of_test.h"
#include "base/fd.h"
#include "checkpoint/disk_area_testing.h"

namespace mhv::checkpoint {
namespace {

using guest::DiskCluster;
using testing::Change;
using testing::cluster_content;
using testing::DiskStore;

constexpr const char* kOwn =
    "  <qemu:commandline>\n"
    "    <qemu:arg value='-chardev'/>\n"
    "    <qemu:arg value='socket,id=mhv,path=/run/nova-mhv/qmp/x.sock,server=on,wait=off'/>\n"
    "    <qemu:arg value='-mon'/>\n"
    "    <qemu:arg value='chardev=mhv,mode=control'/>\n";

TEST(WithoutOwnMonitor, DropsTheWholeElementWhenNothingElseIsInIt) {
  EXPECT_EQ(without_own_monitor(std::string("<domain>\n") + kOwn + "  </qemu:commandline>\n</domain>"), "<domain>\n</domain>");
}

TEST(WithoutOwnMonitor, KeepsTheArgumentsOfOthers) {
  const std::string other = "    <qemu:arg value='-foo'/>\n  </qemu:commandline>\n</domain>";
  EXPECT_EQ(without_own_monitor(std::string("<domain>\n") + kOwn + other), "<domain>\n  <qemu:commandline>\n" + other);
}

TEST(WithoutOwnMonitor, LeavesOtherMachinesAlone) {
  const std::string xml =
      "<domain>\n  <qemu:commandline>\n    <qemu:arg value='-chardev'/>\n    <qemu:arg value='null,id=a'/>\n  "
      "</qemu:commandline>\n</domain>";
  EXPECT_EQ(without_own_monitor(xml), xml);
}

class ExportTest : public ::testing::Test {
 protected:
  // As if the snapshot held 0xaa throughout.
  static std::vector<std::byte> snapshot(std::size_t bytes) { return std::vector<std::byte>(bytes, std::byte{0xaa}); }
  static Fd file(std::span<const std::byte> held) {
    Fd out = Fd::memory("exported");
    pwrite_all(out.get(), held, 0, "a test's file");
    return out;
  }
  static std::vector<std::byte> held(const Fd& file) {
    struct stat about {};
    EXPECT_EQ(::fstat(file.get(), &about), 0);
    std::vector<std::byte> out(static_cast<std::size_t>(about.st_size));
    pread_all(file.get(), out, 0, "a test's file");
    return out;
  }
  std::vector<std::byte> save_image(const std::string& id) {
    const Fd image = Fd::memory("exported");
    const std::uint64_t bytes = export_save_image(*store_, id, image.get(), [](const char*, std::uint64_t, std::uint64_t) {});
    EXPECT_EQ(bytes, held(image).size());
    return held(image);
  }
  std::uint64_t export_core(const std::string& id, const Fd& file) {
    return export_elf_core(*store_, id, file.get(), [](const char*, std::uint64_t, std::uint64_t) {});
  }
  std::uint64_t export_changes(const std::string& id, const std::string& target, const Fd& image) {
    return export_disk_changes(*store_, id, target, image.get());
  }

  static constexpr std::size_t kCluster = DiskCluster::kBytes;
  static constexpr std::size_t kTail = 1536;
  // vda's cluster 3 may be a last one that is short.
  const std::vector<Change> changes_{{{0, 0}, 5, 1}, {{0, 3}, 0, 2}, {{1, 1}, 1023, 3}};
  DiskStore store_;
};

TEST_F(ExportTest, WritesWhatADiskHeldOtherwiseThanItsSnapshot) {
  const std::string id = store_.root_with(1, changes_);
  std::vector<std::byte> wanted = snapshot(3 * kCluster + kTail);
  const Fd first = file(wanted);
  std::ranges::copy(cluster_content(1), wanted.begin());
  std::ranges::copy_n(cluster_content(2).begin(), kTail, wanted.begin() + 3 * kCluster);
  EXPECT_EQ(export_changes(id, "vda", first), kCluster + kTail);
  EXPECT_TRUE(held(first) == wanted);

  wanted = snapshot(8 * kCluster);
  const Fd second = file(wanted);
  std::ranges::copy(cluster_content(3), wanted.begin() + kCluster);
  EXPECT_EQ(export_changes(id, "vdb", second), kCluster);
  EXPECT_TRUE(held(second) == wanted);
}

TEST_F(ExportTest, LeavesADiskAloneThatHeldNothingElse) {
  const std::string empty = store_.root_with(1, std::vector<Change>{});
  const std::string old = DiskStore::commit(store_.begin(), DiskStore::info(2, false));
  const Fd image = file(snapshot(kCluster));
  for (const std::string& id : {empty, old}) {
    EXPECT_EQ(export_changes(id, "vda", image), 0u);
    EXPECT_TRUE(held(image) == snapshot(kCluster));
  }
}

TEST_F(ExportTest, RefusesDisksThatAreNotThereAndImagesThatAreTooShort) {
  const std::string id = store_.root_with(1, changes_);
  const Fd image = file(snapshot(3 * kCluster));
  EXPECT_EQ(code_of([&] { export_changes(id, "vda", image); }), Code::kCorrupt) << "a cluster begins where the image ends";
  EXPECT_EQ(code_of([&] { export_changes(id, "vdc", image); }), Code::kNotFound) << "it has no snapshot";
  EXPECT_EQ(code_of([&] { export_changes(id, "vdd", image); }), Code::kNotFound);
  EXPECT_EQ(code_of([&] { export_changes(store::uuid(9), "vda", image); }), Code::kNotFound);
}

TEST_F(ExportTest, ASaveImageHoldsTheMemoryAlone) {
  const auto without_disks = save_image(DiskStore::commit(store_.begin(), DiskStore::info(1, false)));
  EXPECT_GT(without_disks.size(), 12 * kPageSize);  // every fifth of 16 pages is of zeros
  EXPECT_TRUE(save_image(store_.root_with(2, changes_)) == without_disks);
}

TEST_F(ExportTest, ACoreHoldsTheRamAndHolesForItsZeroPages) {
  constexpr std::uint32_t kDevicePages = 4, kPages = DiskStore::kMemoryPages - kDevicePages;
  store::CheckpointInfo info = DiskStore::info(1, false);
  info.blocks = {{"vga.vram", kDevicePages * kPageSize}, {"pc.ram", kPages * kPageSize}};
  const Fd file = Fd::memory("exported");
  const std::string id = DiskStore::commit(store_.begin(), info);
  const std::uint64_t bytes = export_core(id, file);
  const std::vector<std::byte> core = held(file);
  ASSERT_EQ(core.size(), bytes);
  ASSERT_EQ(core.size(), (1 + kPages) * kPageSize) << "its head has a page";
  for (std::uint32_t i = 0; i < kPages; ++i) {
    EXPECT_TRUE(std::ranges::equal(std::span(core).subspan((1 + i) * kPageSize, kPageSize), store::content((kDevicePages + i) % 5))) << i;
  }
  struct stat about {};
  ASSERT_EQ(::fstat(file.get(), &about), 0);
  constexpr std::uint32_t kZeroPages = 3;  // 5, 10 and 15
  EXPECT_EQ(static_cast<std::uint64_t>(about.st_blocks) * 512, (1 + kPages - kZeroPages) * kPageSize);
}

TEST_F(ExportTest, ACoreIsRefusedWhereTheMemoryOfTheMachineIsNotKnown) {
  store::CheckpointInfo info = DiskStore::info(1, false);
  info.machine = "virt-10.0";
  const Fd file = Fd::memory("exported");
  EXPECT_EQ(code_of([&] { export_core(DiskStore::commit(store_.begin(), info), file); }), Code::kUnsupported);
  EXPECT_EQ(code_of([&] { export_core(store::uuid(9), file); }), Code::kNotFound);
  EXPECT_TRUE(held(file).empty());
}

}  // namespace
}  // namespace mhv::checkpoint
