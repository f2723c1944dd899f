#include "guest/physical_map.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "base/error.h"

namespace mhv::guest {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::uint64_t kGiB = 1ull << 30;

RamBlock block(const std::string& name, std::uint64_t bytes, bool read_only = false) {
  RamBlock out;
  out.name = name;
  out.bytes = bytes;
  out.read_only = read_only;
  return out;
}

// QEMU 10.0, -machine pc -m 4G, shortened.
constexpr const char* kPc = R"(FlatView #0
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-0000000000000007 (prio 0, i/o): dma-chan

FlatView #1
 AS "virtio-net-pci", root: bus master container
 Root memory region: system
  0000000000000000-000000000fffffff (prio 0, ram): pc.ram

FlatView #2
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): pc.ram KVM
  00000000000a0000-00000000000affff (prio 1, i/o): vga-lowmem
  00000000000c0000-00000000000cafff (prio 0, ram): pc.ram @00000000000c0000 KVM
  00000000000cb000-00000000000cdfff (prio 1000, ram): pc.ram @00000000000cb000
  00000000000e0000-00000000000fffff (prio 0, rom): pc.bios @0000000000020000
  0000000000100000-00000000bfffffff (prio 0, ram): pc.ram @0000000000100000
  00000000fd000000-00000000fdffffff (prio 1, ram): vga.vram
  0000000100000000-000000013fffffff (prio 0, ram): pc.ram @00000000c0000000

FlatView #3
 AS "other", root: system
  0000000000000000-00000000bfffffff (prio 0, ram): pc.ram
)";

TEST(PhysicalMap, OfAPcWithAHole) {
  const std::vector blocks{block("pc.ram", 4 * kGiB), block("0000:00:02.0/vga.vram", 16 << 20), block("pc.bios", 256 << 10, true)};
  EXPECT_THAT(parse_memory_tree(kPc, blocks),
              ElementsAre(PhysicalPart{0, 0xa0000, 0, 0}, PhysicalPart{0xc0000, 0xe000, 0, 0xc0000},
                          PhysicalPart{0x100000, 3 * kGiB - 0x100000, 0, 0x100000}, PhysicalPart{0xfd000000, 16 << 20, 1, 0},
                          PhysicalPart{4 * kGiB, kGiB, 0, 3 * kGiB}));
}

std::string view(const std::string& lines) { return "FlatView #0\n AS \"memory\", root: system\n" + lines; }

TEST(PhysicalMap, NamesOfBlocks) {
  const std::string text = view("  0000000000000000-0000000000000fff (prio 0, ram): ram-node0\r\n");
  EXPECT_EQ(parse_memory_tree(text, std::vector{block("/objects/ram-node0", 8192)}).size(), 1);
  EXPECT_THROW(parse_memory_tree(text, std::vector{block("xram-node0", 8192)}), Error);
  // Which of the two?
  EXPECT_THROW(parse_memory_tree(text, std::vector{block("a/ram-node0", 8192), block("b/ram-node0", 8192)}), Error);
}

TEST(PhysicalMap, TakesWholePagesOnly) {
  const std::vector blocks{block("r", 1 << 20)};
  EXPECT_THAT(parse_memory_tree(view("  0000000000000800-00000000000027ff (prio 0, ram): r @0000000000000800\n"), blocks),
              ElementsAre(PhysicalPart{0x1000, 0x1000, 0, 0x1000}));
}

void expect_refused(const std::string& lines, const char* why) {
  try {
    parse_memory_tree(view(lines), std::vector{block("r", 1 << 20)});
    ADD_FAILURE() << "taken: " << lines;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kInvalid);
    EXPECT_THAT(error.what(), HasSubstr(why));
  }
}

TEST(PhysicalMap, RefusesWhatCannotBe) {
  expect_refused("  0000000000000000-00000000001fffff (prio 0, ram): r\n", "more of r than there is");
  expect_refused("  0000000000000000-00000000000fffff (prio 0, ram): r @0000000000001000\n", "more of r than there is");
  expect_refused("  0000000000001000-0000000000000000 (prio 0, ram): r\n", "more of r than there is");
  expect_refused("  0000000000000000-ffffffffffffffff (prio 0, ram): r\n", "more of r than there is");
  expect_refused("  0000000000000000-0000000000000fff (prio 0, ram): r @xyz\n", "offset is malformed");
  expect_refused("  0000000000002000-0000000000002fff (prio 0, ram): r\n  0000000000002000-0000000000003fff (prio 0, ram): r\n", "overlap");
  expect_refused("", "none of the guest's RAM");
  std::string many;
  for (int i = 0; i < 5000; ++i) many += fmt::format("  {:016x}-{:016x} (prio 0, ram): r\n", i * 8192, i * 8192 + 4095);
  expect_refused(many, "too many parts");
}

}  // namespace
}  // namespace mhv::guest
