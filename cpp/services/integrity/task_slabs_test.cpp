// Processes that no list of a kernel made by hand names: found where they are, and what is none is not told.
#include "integrity/task_slabs.h"

#include <gmock/gmock.h>

#include "base/code_of_test.h"
#include "integrity/testing.h"

namespace mhv::integrity {
namespace {

using namespace testing;
using ::testing::ElementsAre;

constexpr int kPass = 2;  // checks: 32 MiB

class TaskSlabsTest : public ::testing::Test {
 protected:
  // Of the last of so many checks.
  std::string found_after(int checks) {
    std::string out;
    for (int i = 0; i < checks; ++i) out = kinds(last = checker->check(made.registers()));
    return out;
  }
  std::string found() { return found_after(2 * kPass + 1); }

  // What a walk of so many checks comes to.
  std::vector<std::uint64_t> objects_in(int checks) {
    std::vector<std::uint64_t> out;
    TaskSlabs slabs(kernel);
    const TaskLists lists(kernel);
    for (int i = 0; i < checks; ++i) {
      Reader reader(kernel);
      slabs.advance(reader);
      slabs.hidden(reader, lists, {}, [&](GuestVirt at) {
        out.push_back(at.value);
        return true;
      });
    }
    return out;
  }

  MadeKernel made;
  Kernel kernel{made.memory, made.paging()};
  std::unique_ptr<Checker> checker = std::make_unique<Checker>(kernel, made.registers());
  std::vector<Finding> last;
};

TEST_F(TaskSlabsTest, FreeOnesAndIdleOnesAreNotHidden) { EXPECT_EQ(found(), ""); }

TEST_F(TaskSlabsTest, OneThatSleepsIsFoundAndStaysSo) {
  made.put_sleeper(1, 77);
  EXPECT_EQ(found_after(kPass), "") << "told by a later check";
  for (int i = 0; i < 2 * kPass; ++i) {
    ASSERT_EQ(found_after(1), "hidden_process") << i;
    EXPECT_EQ(last[0].subject, "77 sleeper");
    EXPECT_EQ(last[0].address.value, made.object(1));
    EXPECT_THAT(last[0].detail, ::testing::HasSubstr("memory for processes"));
  }
  made.free_object(made.object(1), made.object(0));
  EXPECT_EQ(found_after(1), "") << "it is gone";
}

TEST_F(TaskSlabsTest, AnotherAtItsPlaceIsSeenAnew) {
  made.put_sleeper(1, 77);
  EXPECT_EQ(found_after(kPass), "");
  made.put(made.object(1) + in::pid, 78);
  EXPECT_EQ(found_after(1), "");
  EXPECT_EQ(found_after(kPass + 1), "hidden_process");
}

TEST_F(TaskSlabsTest, EachExcuseIsOne) {
  made.put_sleeper(1, 77);
  const std::uint64_t one = made.object(1);
  const auto excused = [&](auto place, auto value, const char* why) {
    const std::uint64_t was = made.word(place);
    made.put(place, value);
    EXPECT_EQ(found(), "") << why;
    made.put(place, was);
    EXPECT_EQ(found(), "hidden_process") << why;
  };
  excused(one + in::exit_state, 16u, "it is ending");
  excused(one + in::running, 0x800u, "it is being born");
  excused(one + in::running, 0x80u, "it has ended, or was never born");
  excused(one + in::handlers, std::uint64_t{0}, "nothing was written to it so far");
  excused(made.page(made.slab()) + in::page_cache, std::uint64_t{0}, "the slab is gone");
  excused(made.page(made.slab()) + in::page_head, std::uint64_t{1}, "of another's tail");
}

TEST_F(TaskSlabsTest, TheCopyOfAParent) {
  made.put_sleeper(1, 2);
  made.put(made.object(1) + in::running, 0u);
  EXPECT_EQ(found(), "");
  made.put(made.object(1) + in::running, 1u);
  EXPECT_EQ(found(), "hidden_process") << "a parent runs";
  made.put(made.object(1) + in::running, 0u);
  made.put(made.object(1) + in::pid, 77);
  EXPECT_EQ(found(), "hidden_process") << "nobody's copy";
}

TEST_F(TaskSlabsTest, OnlyAProcessorsOwnIsIdle) {
  made.put_sleeper(1, 0);
  EXPECT_EQ(found(), "hidden_process");
}

TEST_F(TaskSlabsTest, KnownOnes) {
  made.put_sleeper(1, 3);
  made.put(kImage + at::pid_ns + 0x40 + 0x10 + 3 * 8, made.task(3) + 0x280);
  const std::uint64_t number = made.object(1) + 0x280;
  made.put(number, made.object(1) + in::links);
  made.put(kImage + at::pid_ns + 0x40 + 0x10 + 4 * 8, number);
  EXPECT_EQ(found(), "hidden_process");
  ASSERT_EQ(last.size(), 1u);
  EXPECT_THAT(last[0].detail, ::testing::StartsWith("has a number")) << "told once, by what is known of it";
}

TEST_F(TaskSlabsTest, AChangeOfTheListsStopsTheWalk) {
  made.put_sleeper(1, 77);
  EXPECT_EQ(found_after(1), "") << "the second part of a pass is next";
  made.put(kImage + at::lock, std::uint8_t{0xff});
  EXPECT_EQ(found_after(3), "");
  made.put(kImage + at::lock, std::uint8_t{0});
  EXPECT_EQ(found_after(1), "") << "it is looked at now";
  EXPECT_EQ(found_after(1), "hidden_process");
  made.put(kImage + at::lock, std::uint8_t{0xff});
  EXPECT_EQ(found_after(1), "");
  made.put(kImage + at::lock, std::uint8_t{0});
  EXPECT_EQ(found_after(1), "hidden_process") << "it was not forgotten";
}

// All of memory, and again.
TEST_F(TaskSlabsTest, EachPageIsLookedAt) {
  made.put(made.page(made.slab()) + in::page_cache, std::uint64_t{0});
  const std::uint64_t cache = made.heap(0x8000);
  for (const std::uint64_t frame : {std::uint64_t{0}, std::uint64_t{4095}, std::uint64_t{4096}, std::uint64_t{8191}}) {
    const std::uint64_t page = kPages + frame * kPageStruct;
    made.put(page + in::page_cache, cache);
    made.put(page + in::page_counters, 1u << 16);
    EXPECT_THAT(objects_in(2 * kPass), ElementsAre(kDirect + frame * kPageSize, kDirect + frame * kPageSize)) << "at each of two passes";
    made.put(page + in::page_cache, std::uint64_t{0});
  }
}

TEST_F(TaskSlabsTest, WhereTheKernelHasNoPages) {
  constexpr std::uint64_t kHole = 512;
  made.put(kImage + at::pages, kPages - kHole * kPageStruct);
  made.put(kPages + in::page_cache, made.heap(0x8000));
  made.put(kPages + in::page_counters, 1u << 16);
  EXPECT_THAT(objects_in(1), ElementsAre(kDirect + kHole * kPageSize));
}

TEST_F(TaskSlabsTest, WhatIsForgedIsBounded) {
  const std::uint64_t cache = made.heap(0x8000);
  for (std::uint64_t frame = 0; frame < 8192; ++frame) {
    made.put(kPages + frame * kPageStruct + in::page_cache, cache);
    made.put(kPages + frame * kPageStruct + in::page_counters, ~std::uint64_t{0});
  }
  EXPECT_EQ(objects_in(1).size(), 1u << 13);
  found();
  EXPECT_LE(last.size(), 64u);
}

TEST_F(TaskSlabsTest, AKernelThatDoesNotOfferIt) {
  const auto refused = [&](std::uint64_t place, auto value) {
    const std::uint64_t was = made.word(place);
    made.put(place, value);
    EXPECT_EQ(code_of([&] { TaskSlabs slabs(kernel); }), Code::kUnsupported) << place;
    Checker without(kernel, made.registers());
    EXPECT_THAT(without.unchecked(), ElementsAre(::testing::StartsWith("processes that no list names: ")));
    EXPECT_EQ(kinds(without.check(made.registers())), "");
    made.put(place, was);
  };
  const std::uint64_t cache = made.heap(0x8000);
  for (const std::uint64_t place : {at::pages, at::direct, at::cache}) refused(kImage + place, std::uint64_t{0});
  refused(kImage + at::cache, std::uint64_t{0xffff'ffff'ffff'fff8});
  refused(kImage + at::processors, 5000u);
  for (const std::uint32_t bytes : {0u, 512u, 1u << 20}) refused(cache + 8, bytes);
  refused(cache + 12, in::object_bytes);
  refused(cache + 16, in::object_bytes);
  refused(cache + 24, 2u);
}

}  // namespace
}  // namespace mhv::integrity
