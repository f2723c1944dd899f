#include "introspection/btf.h"

#include <gtest/gtest.h>

#include <random>

#include "base/error.h"
#include "introspection/testing.h"

namespace mhv::introspection {
namespace {

using namespace testing;  // kinds of types

// struct list_head { struct list_head *next, *prev; };
// struct task { const volatile int flags : 3; int pid; union { struct { list_head links; }; int other; }; name_t comm; };
std::vector<std::byte> tasks() {
  TestBtf btf;
  const auto number = btf.add(kInt, "int", 4);
  btf.word(0x0100'0020);
  const auto list = btf.add(kStruct, "list_head", 16, 2);
  btf.member("next", 3, 0);
  btf.member("prev", 3, 64);
  btf.add(kPtr, "", list);
  const auto inner = btf.add(kStruct, "", 16, 1);
  btf.member("links", list, 0);
  const auto either = btf.add(kUnion, "", 16, 2);
  btf.member("", inner, 0);
  btf.member("other", number, 0);
  const auto text = btf.add(kArray, "", 0);
  for (const std::uint32_t word : {number, number, 16u}) btf.word(word);
  const auto named = btf.add(kTypedef, "name_t", text);
  const auto fixed = btf.add(kConst, "", named);
  btf.add(kStruct, "task", 96, 4, kBitFields);
  btf.member("flags", number, 3u << 24 | 0);
  btf.member("pid", number, 32);
  btf.member("", either, 64);
  btf.member("comm", fixed, 192);
  return btf.bytes();
}

TEST(BtfTest, SaysWhatEnumeratorsAre) {
  TestBtf made;
  made.add(kEnum, "others", 4, 1);
  made.enumerator("RUNNING", 1);
  made.add(kEnum, "states", 4, 2);
  made.enumerator("BOOTING", 0);
  made.enumerator("RUNNING", 2);
  const Btf btf(made.bytes());
  EXPECT_EQ(btf.enumerator("states", "RUNNING"), 2);
  EXPECT_EQ(btf.enumerator("others", "RUNNING"), 1);
  EXPECT_EQ(btf.enumerator("others", "BOOTING"), std::nullopt);
  EXPECT_EQ(btf.enumerator("none", "RUNNING"), std::nullopt);
}

TEST(BtfTest, SaysWhereMembersAre) {
  const Btf btf(tasks());
  EXPECT_EQ(btf.field("task", "pid")->offset, 4u);
  EXPECT_EQ(btf.field("task", "links")->offset, 8u) << "inside of two anonymous ones";
  EXPECT_EQ(btf.field("task", "links.prev")->offset, 16u);
  EXPECT_EQ(btf.field("task", "other")->offset, 8u);
  EXPECT_EQ(btf.size_of(btf.field("task", "comm")->type), 64u);
  EXPECT_EQ(btf.size_of(btf.field("task", "links")->type), 16u);
  EXPECT_EQ(btf.size_of(btf.field("task", "links.next")->type), 8u);
  EXPECT_EQ(btf.size_of(*btf.find("task")), 96u);
  EXPECT_FALSE(btf.field("task", "flags")) << "a bit field";
  EXPECT_FALSE(btf.field("task", "links.next.prev")) << "not through pointers";
  EXPECT_FALSE(btf.field("task", "none"));
  EXPECT_FALSE(btf.field("none", "pid"));
  EXPECT_FALSE(btf.find("name_t"));
}

TEST(BtfTest, TypesOfThemselvesEnd) {
  TestBtf btf;
  btf.add(kTypedef, "loop", 1);
  btf.add(kStruct, "nest", 8, 2);
  btf.member("", 2, 0);
  btf.member("", 2, 0);
  btf.add(kArray, "", 0);
  for (const std::uint32_t word : {3u, 1u, 0xffff'ffffu}) btf.word(word);
  const Btf made(btf.bytes());
  EXPECT_EQ(made.size_of(1), 0u);
  EXPECT_EQ(made.size_of(3), 0u);
  EXPECT_FALSE(made.field("nest", "x"));
}

TEST(BtfTest, DamageIsRefusedOrHarmless) {
  const auto whole = tasks();
  std::mt19937 random(1);
  for (std::size_t length = 0; length < whole.size(); ++length) {
    EXPECT_THROW(Btf(std::vector(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length))), Error) << length;
  }
  for (int round = 0; round < 5'000; ++round) {
    auto bytes = whole;
    for (unsigned i = 0; i < 1 + random() % 3; ++i) bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    try {
      const Btf btf(bytes);
      for (const char* member : {"pid", "links.prev", "comm", "other"}) {
        if (const auto field = btf.field("task", member)) btf.size_of(field->type);
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kCorrupt);
    }
  }
}

}  // namespace
}  // namespace mhv::introspection
