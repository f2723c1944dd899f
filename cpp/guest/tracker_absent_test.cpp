// Pages that are not there: given back, paged out, never touched.
#include <gmock/gmock.h>

#include <set>
#include <string>

#include "guest/sequence_points_test.h"
#include "guest/tracker_fixture_test.h"

namespace mhv::guest {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

using testing::Kind;
using testing::pages;
using testing::TrackerTest;

TEST_P(TrackerTest, PunchedPagesAreReturned) {
  fill();
  const auto block = ram();
  Tracker tracker = track(*block);
  tracker.reset();
  punch(10, 5);
  punch(512, 1024);  // a page table and more
  EXPECT_THAT(tracker.collect(), ElementsAre(pages(10, 5), pages(512, 1024)));
  EXPECT_THAT(tracker.collect(), IsEmpty());
  EXPECT_EQ(read(12), 0);
  write(13);
  EXPECT_THAT(tracker.collect(), ElementsAre(pages(13, 1)));
  punch(13, 1);
  EXPECT_THAT(tracker.collect(), ElementsAre(pages(13, 1)));
  // Written, then punched, between two calls.
  write(20);
  punch(20, 1);
  EXPECT_THAT(tracker.collect(), ElementsAre(pages(20, 1)));
}

TEST_P(TrackerTest, PunchedHugePagesAreReturned) {
  ::madvise(const_cast<char*>(memory_), kBytes, MADV_HUGEPAGE);
  fill();
  const auto block = ram();
  Tracker tracker = track(*block);
  tracker.reset();
  punch(0, kPages);
  EXPECT_THAT(tracker.collect(), ElementsAre(pages(0, kPages)));
  write(700);
  EXPECT_THAT(tracker.collect(), ElementsAre(pages(700, 1)));
}

TEST_P(TrackerTest, PagedOutPagesAreNotLost) {
  fill();
  const auto block = ram();
  Tracker tracker = track(*block);
  tracker.reset();
  write(3);
  ::madvise(const_cast<char*>(memory_), 16 * kPageSize, MADV_PAGEOUT);
  std::set<std::uint32_t> found;
  for (const auto& range : tracker.collect()) {
    for (std::uint32_t i = 0; i < range.count; ++i) found.insert(range.first.value + i);
  }
  EXPECT_TRUE(found.contains(3));
}

// Written for the first time, and out of the page tables again before anybody looked, as reclaim to swap leaves it.
TEST_P(TrackerTest, OnAHostThatSwapsAPageWithoutEntryIsNotLost) {
  if (!GetParam().host_swaps) return;
  const auto block = ram();
  Tracker tracker = track(*block);
  tracker.reset();
  write(700);
  ::madvise(const_cast<char*>(memory_), kBytes, MADV_DONTNEED);  // of shared memory: the entry goes, the page stays
  EXPECT_THAT(tracker.collect_written(), ElementsAre(pages(700, 1)));
  EXPECT_EQ(read(700), 1);
  EXPECT_THAT(tracker.collect_written(), IsEmpty());
}

TEST_P(TrackerTest, WhatAPauseReturnedAndIsPunchedThenIsReturned) {
  const auto block = ram();
  Tracker tracker = track(*block);
  tracker.reset();
  write(7);
  EXPECT_THAT(tracker.collect_written(), ElementsAre(pages(7, 1)));
  punch(7, 1);
  EXPECT_THAT(tracker.collect(), ElementsAre(pages(7, 1)));
  EXPECT_THAT(tracker.collect(), IsEmpty());
}

// Written again between the look at what is mapped and the marker: it is returned, and then protected.
TEST_P(TrackerTest, APunchedPageThatComesBackDuringTheLookIsReturnedWhenItIsPunchedAgain) {
  fill();
  const auto block = ram();
  Tracker tracker = track(*block);
  tracker.reset();
  punch(7, 1);
  {
    int ioctls = 0;
    const testing::SequencePoints points([&]() -> testing::SequencePoints::Fate {
      if (ioctls++ == 2) write(7);
      return {};
    });
    EXPECT_THAT(tracker.collect(), ElementsAre(pages(7, 1)));
  }
  punch(7, 1);
  EXPECT_THAT(tracker.collect(), ElementsAre(pages(7, 1)));
}

std::uint64_t page_table_kib() {
  const std::string status = read_file("/proc/self/status", 65536);
  return std::stoull(status.substr(status.find("VmPTE:") + 6));
}

TEST_P(TrackerTest, UntouchedMemoryGetsNoPageTables) {
  if (GetParam().host_swaps) return;
  constexpr std::size_t kUntouched = std::size_t{1} << 30;
  Fd file = Fd::memory("untouched");
  ASSERT_EQ(::ftruncate(file.get(), kUntouched), 0);
  const bool shared = GetParam().kind == Kind::kShared;
  void* at =
      ::mmap(nullptr, kUntouched, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, shared ? file.get() : -1, 0);
  ASSERT_NE(at, MAP_FAILED);
  std::vector<Fd> fds;
  fds.push_back(std::move(file));
  const int number = fds[0].get();
  const Ram large({RamBlock{"untouched", {reinterpret_cast<std::uintptr_t>(at)}, kUntouched, false, shared, 0, number, {}}},
                  std::move(fds));
  const std::uint64_t before = page_table_kib();
  {
    Tracker tracker = track(large);
    tracker.reset();
    for (std::uint32_t page = 0; page < 64; ++page) static_cast<volatile char*>(at)[std::size_t{page} * 37 * kPageSize] = 1;
    tracker.collect();
    std::vector<std::byte> run(256 * kPageSize);
    for (std::uint32_t page = 0; page < large.pages() && shared; page += 256) large.read({{page}, 256}, run);
    tracker.collect();
    tracker.collect();
  }
  EXPECT_LT(page_table_kib() - before, 100u) << "of 2048 that would map all";
  ::munmap(at, kUntouched);
}

}  // namespace
}  // namespace mhv::guest
