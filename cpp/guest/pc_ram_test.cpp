#include "guest/pc_ram.h"

#include <gmock/gmock.h>

#include "base/code_of_test.h"

namespace mhv::guest {
namespace {

using ::testing::ElementsAre;

constexpr std::uint64_t kGib = 1ull << 30;

constexpr PageNo page_at(std::uint64_t offset) { return {static_cast<std::uint32_t>(offset >> kPageShift)}; }

std::vector<RamPart> of_one(const std::string& machine, std::uint64_t bytes) {
  return pc_ram(machine, std::vector<StreamBlock>{{"pc.ram", bytes}});
}

TEST(PcRam, IsArrangedAsQemuDoes) {
  EXPECT_THAT(of_one("pc-i440fx-10.0", 512 << 20), ElementsAre(RamPart{0, 512 << 20, {0}}));
  EXPECT_THAT(of_one("pc-i440fx-10.0", 4 * kGib), ElementsAre(RamPart{0, 3 * kGib, {0}}, RamPart{4 * kGib, kGib, page_at(3 * kGib)}));
  EXPECT_THAT(of_one("pc-q35-9.2", 2 * kGib), ElementsAre(RamPart{0, 2 * kGib, {0}}));
  EXPECT_THAT(of_one("pc-q35-9.2", 3 * kGib), ElementsAre(RamPart{0, 2 * kGib, {0}}, RamPart{4 * kGib, kGib, page_at(2 * kGib)}));
}

TEST(PcRam, DevicesAreLeftOut) {
  const std::vector<StreamBlock> blocks{{"vga.vram", 16 << 20}, {"/objects/pc.ram", kGib}, {"pc.bios", 256 << 10}};
  EXPECT_THAT(pc_ram("pc-q35-10.0", blocks), ElementsAre(RamPart{0, kGib, page_at(16 << 20)}));
}

TEST(PcRam, NodesFollowEachOtherByNumber) {
  const std::vector<StreamBlock> equal{{"ram-node0", kGib}, {"ram-node1", kGib}};
  EXPECT_THAT(pc_ram("pc-i440fx-10.0", equal), ElementsAre(RamPart{0, 2 * kGib, {0}}));
  // QEMU lists the largest first.
  const std::vector<StreamBlock> unequal{{"/objects/ram-node10", 3 * kGib}, {"/objects/ram-node2", kGib}};
  EXPECT_THAT(pc_ram("pc-i440fx-10.0", unequal),
              ElementsAre(RamPart{0, kGib, page_at(3 * kGib)}, RamPart{kGib, 2 * kGib, {0}}, RamPart{4 * kGib, kGib, page_at(2 * kGib)}));
}

TEST(PcRam, WhatIsNotKnownIsRefused) {
  const auto refused = [](const std::string& machine, std::vector<StreamBlock> blocks) {
    return code_of([&] { pc_ram(machine, blocks); });
  };
  EXPECT_EQ(refused("virt-10.0", {{"pc.ram", kGib}}), Code::kUnsupported);
  EXPECT_EQ(refused("pc-q35-10.0", {{"pc.ram", kGib}, {"/objects/memdimm0", kGib}}), Code::kUnsupported);
  EXPECT_EQ(refused("pc-q35-10.0", {{"pc.ram", 1000 * kGib}}), Code::kUnsupported);
  EXPECT_EQ(refused("pc-q35-10.0", {{"vga.vram", kGib}, {"ram-nodes", kGib}}), Code::kUnsupported);
}

}  // namespace
}  // namespace mhv::guest
