#include "introspection/paging.h"

#include <gtest/gtest.h>

#include "base/units.h"
#include "introspection/testing.h"

namespace mhv::introspection {
namespace {

using testing::TestMemory;

constexpr std::uint64_t kPresentBit = 1;

// Tables at 0x1000 and up; pages from 4 MiB on.
struct Mapped {
  void map(std::uint64_t virt, std::uint64_t phys, int levels, int level_of_page) { tables.map(virt, phys, levels, level_of_page); }

  TestMemory memory{8 << 20};
  testing::Tables tables{memory, 0x1000};
};

TEST(Paging, PagesOfAllSizes) {
  Mapped tables;
  tables.map(0xffff'ffff'8000'0000, 2 << 20, 4, 2);
  tables.map(0x7fff'1234'5000, 0x40'3000, 4, 1);
  tables.map(0xffff'8880'0000'0000, 0, 4, 3);
  const AddressSpace space(tables.memory, 0x1000 | 0x18, false);
  EXPECT_EQ(space.translate({0xffff'ffff'8012'3456})->at, GuestPhys{0x32'3456});
  EXPECT_EQ(space.translate({0x7fff'1234'5678})->at, GuestPhys{0x40'3678});
  EXPECT_EQ(space.translate({0xffff'8880'3fff'ffff})->at, GuestPhys{0x3fff'ffff});
  EXPECT_FALSE(space.translate({0xffff'8880'4000'0000}));
  EXPECT_FALSE(space.translate({0x7fff'1234'6000}));
  EXPECT_FALSE(space.translate({0x0000'8000'0000'0000})) << "is not canonical";
}

TEST(Paging, FiveLevels) {
  Mapped tables;
  tables.map(0xff11'0000'0000'0000, 0x40'0000, 5, 1);
  EXPECT_EQ(AddressSpace(tables.memory, 0x1000, true).translate({0xff11'0000'0000'0010})->at, GuestPhys{0x40'0010});
  EXPECT_FALSE(AddressSpace(tables.memory, 0x1000, false).translate({0xff11'0000'0000'0010}));
}

TEST(Paging, ReadsOverPagesThatLieApart) {
  Mapped tables;
  tables.map(0x1000'0000, 0x50'0000, 4, 1);
  tables.map(0x1000'1000, 0x40'0000, 4, 1);
  const std::string text = "over the edge";
  for (std::size_t i = 0; i <= text.size(); ++i) tables.memory.put(i < 4 ? 0x50'0ffc + i : 0x40'0000 + i - 4, text.c_str()[i]);
  const AddressSpace space(tables.memory, 0x1000, false);
  EXPECT_EQ(space.read_string({0x1000'0ffc}, 100), text);
  EXPECT_EQ(space.read_string({0x1000'0ffc}, 4), "over");
  EXPECT_EQ(space.read_string({0x1000'0ffe}, 4), "er t");
  EXPECT_EQ(space.read_string({0x1000'1ffc}, 100), "");
  tables.memory.put(0x40'0ffc, std::uint32_t{0x41414141});
  EXPECT_EQ(space.read_string({0x1000'1ffc}, 100), std::nullopt) << "the next page is not there";
}

// Many pages of many tables, so that what a look knows is replaced, and asked for again.
TEST(Paging, ALookReadsTheSame) {
  Mapped tables;
  std::vector<std::uint64_t> pages;
  for (std::uint64_t i = 0; i < 100; ++i) {
    pages.push_back(0x1000'0000 + i * (2 << 20) + i * kPageSize);
    tables.map(pages.back(), 0x40'0000 + i * kPageSize, 4, 1);
    tables.memory.put(0x40'0000 + i * kPageSize, i + 1);
  }
  tables.map(0x7000'0000, 0x40'0000, 4, 2);
  const AddressSpace space(tables.memory, 0x1000, false);
  Look look(space);
  for (int round = 0; round < 2; ++round) {
    for (std::uint64_t i = 0; i < pages.size(); ++i) {
      std::uint64_t value = 0;
      EXPECT_TRUE(look.read({pages[i]}, std::as_writable_bytes(std::span(&value, 1))));
      EXPECT_EQ(value, i + 1);
      EXPECT_EQ(look.translate({pages[i] + 5}), space.translate({pages[i] + 5})->at);
      EXPECT_FALSE(look.translate({pages[i] + kPageSize}));
    }
    EXPECT_EQ(look.translate({0x7000'1234}), GuestPhys{0x40'1234});
  }
}

// Tables that name themselves, or what is no RAM.
TEST(Paging, TablesThatLie) {
  TestMemory memory(1 << 20);
  memory.put(0x1000, std::uint64_t{0x1000 | kPresentBit});
  EXPECT_EQ(AddressSpace(memory, 0x1000, false).translate({0})->at, GuestPhys{0x1000}) << "it ends";
  memory.put(0x1008, std::uint64_t{0x7fff'ffff'f000 | kPresentBit});
  EXPECT_FALSE(AddressSpace(memory, 0x1000, false).translate({std::uint64_t{1} << 39}));
  EXPECT_FALSE(AddressSpace(memory, ~std::uint64_t{0}, true).translate({0}));
}

}  // namespace
}  // namespace mhv::introspection
