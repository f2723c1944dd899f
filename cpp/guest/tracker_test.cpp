// Which pages were written, and taking over from one another.
#include "guest/tracker.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <random>
#include <set>
#include <thread>

#include "base/error.h"
#include "guest/fixture_test.h"
#include "guest/page_ranges.h"
#include "guest/slow_file_test.h"
#include "guest/tracker_fixture_test.h"
#include "guest/tracker_sys.h"

namespace mhv::guest {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

using testing::new_uffd;
using testing::pages;
using testing::TrackerTest;

TEST_P(TrackerTest, ReturnsEachWrittenPageOnce) {
  fill();
  const auto block = ram();
  Tracker tracker = track(*block);
  tracker.reset();
  EXPECT_THAT(tracker.collect(), IsEmpty());
  for (const std::uint32_t page : {0u, 7u, 8u, 9u, 41u, 2000u, kPages - 1}) write(page);
  read(100);
  EXPECT_THAT(tracker.collect(), ElementsAre(pages(0, 1), pages(7, 3), pages(41, 1), pages(2000, 1), pages(kPages - 1, 1)));
  EXPECT_THAT(tracker.collect(), IsEmpty());
  write(8);
  EXPECT_THAT(tracker.collect(), ElementsAre(pages(8, 1)));
}

TEST_P(TrackerTest, WhereNothingIsGivenBackWritesAreAllThatIsLookedFor) {
  fill();
  const auto block = ram();
  Tracker tracker = track(*block);
  tracker.pages_stay();
  EXPECT_THAT(tracker.collect(), ElementsAre(pages(0, kPages)));
  write(7);
  EXPECT_THAT(tracker.collect(), ElementsAre(pages(7, 1)));
  EXPECT_THAT(tracker.collect(), IsEmpty());
}

TEST_P(TrackerTest, WhatWasWrittenElsewhereIsSeenAndStays) {
  fill();
  const auto block = ram();
  Tracker tracker = track(*block);
  tracker.reset();
  write(600);
  EXPECT_THAT(tracker.collect(), ElementsAre(pages(600, 1)));
  write(700);  // in the same region
  EXPECT_THAT(tracker.collect_written_lately(), ElementsAre(pages(700, 1)));
  EXPECT_TRUE(tracker.nothing_elsewhere());
  write(701);
  write(2000);
  EXPECT_THAT(tracker.collect_written_lately(), ElementsAre(pages(701, 1)));
  EXPECT_FALSE(tracker.nothing_elsewhere());
  EXPECT_THAT(tracker.collect_written(), ElementsAre(pages(2000, 1)));
  EXPECT_TRUE(tracker.nothing_elsewhere());
}

TEST_P(TrackerTest, ARegionThatIsLeftAloneIsNoLongerLately) {
  fill();
  const auto block = ram();
  Tracker tracker = track(*block);
  tracker.reset();
  write(600);
  for (int i = 0; i < 100; ++i) tracker.collect();
  write(601);
  EXPECT_THAT(tracker.collect_written_lately(), IsEmpty());
  EXPECT_FALSE(tracker.nothing_elsewhere());
}

// As a checkpoint uses it, on random writes that move through the memory: nothing is missed, nothing comes twice.
TEST_P(TrackerTest, LatelyAndElsewhereAreAllTogether) {
  fill();
  const auto block = ram();
  Tracker tracker = track(*block);
  tracker.reset();
  std::mt19937 random(1);
  std::set<std::uint32_t> expected;
  const auto write_some = [&](std::uint32_t around) {
    for (int i = 0; i < 5; ++i) {
      const std::uint32_t page = (around + random() % 700) % kPages;
      write(page);
      expected.insert(page);
    }
  };
  const auto take = [&](const std::vector<PageRange>& found) {
    for (const PageRange& range : found) {
      for (std::uint32_t i = 0; i < range.count; ++i) EXPECT_EQ(expected.erase(range.first.value + i), 1u);
    }
  };
  int elsewhere = 0;
  for (std::uint32_t epoch = 0; epoch < 2000; ++epoch) {
    write_some(epoch);
    take(tracker.collect());
    EXPECT_THAT(expected, IsEmpty());
    write_some(epoch);
    if (epoch % 10 == 0) write_some(random() % kPages);
    take(tracker.collect_written_lately());
    const bool all = expected.empty();
    EXPECT_EQ(tracker.nothing_elsewhere(), all);
    if (all) continue;
    ++elsewhere;
    take(tracker.collect_written());
    EXPECT_THAT(expected, IsEmpty());
  }
  EXPECT_GT(elsewhere, 10);
  EXPECT_LT(elsewhere, 1000);
}

TEST_P(TrackerTest, FirstCollectReturnsEverything) {
  const auto block = ram();
  write(5);
  Tracker tracker = track(*block);
  EXPECT_THAT(tracker.collect(), ElementsAre(pages(0, kPages)));
  EXPECT_THAT(tracker.collect(), IsEmpty());
  write(7);
  EXPECT_THAT(tracker.collect(), ElementsAre(pages(7, 1)));
}

TEST_P(TrackerTest, InsideAPauseOnlyWrittenPagesAreReturned) {
  fill();
  const auto block = ram();
  Tracker tracker = track(*block);
  tracker.reset();
  write(7);
  punch(10, 5);
  EXPECT_THAT(tracker.collect_written(), ElementsAre(pages(7, 1)));
  write(20);
  EXPECT_THAT(tracker.collect(), ElementsAre(pages(10, 5), pages(20, 1)));
  EXPECT_THAT(tracker.collect(), IsEmpty());
}

// Why a disk's requests have to end between a look and a copy (Machine::drain_disks()). Should a kernel tell one day, good.
TEST_P(TrackerTest, MemoryPinnedForADiskReadChangesWithoutATrace) {
  const testing::TempFolder folder;
  const std::string path = folder.file("slow");
  Fd::open(path, O_CREAT | O_RDWR);
  testing::SlowFile file(path);
  if (!file.mounted()) GTEST_SKIP() << "no FUSE: " << std::strerror(errno);
  fill();
  const auto block = ram();
  Tracker tracker = track(*block);
  tracker.reset();
  const char before = read(5);
  std::thread reader([&] {
    const Fd in = Fd::open(path, O_RDONLY | O_DIRECT);
    EXPECT_EQ(::pread(in.get(), const_cast<char*>(memory_) + 5 * kPageSize, kPageSize, 0), static_cast<ssize_t>(kPageSize));
  });
  file.wait_until_read_begins();
  EXPECT_THAT(tracker.collect(), ElementsAre(pages(5, 1)));
  EXPECT_EQ(read(5), before);
  file.let_read_end();
  reader.join();
  EXPECT_EQ(read(5), testing::SlowFile::kByte);
  EXPECT_THAT(tracker.collect(), IsEmpty());
}

// More regions than one PAGEMAP_SCAN returns.
TEST_P(TrackerTest, ScatteredWritesFillTheScansBuffer) {
  fill();
  const auto block = ram();
  Tracker tracker = track(*block);
  tracker.reset();
  for (std::uint32_t i = 0; i < 100 * 40; i += 40) write(i);  // further apart than the merge gap
  EXPECT_EQ(tracker.collect().size(), 100u);
  for (std::uint32_t i = 0; i < kPages; i += 2) write(i);
  const auto found = tracker.collect();
  EXPECT_EQ(found.size(), kPages / 2);
  EXPECT_EQ(count_pages(found), kPages / 2);
}

TEST_P(TrackerTest, AnotherEngineGoesOn) {
  fill();
  const auto block = ram();
  {
    Tracker first = track(*block);
    first.reset();
    write(1);
  }
  Tracker second = track(*block, false);
  write(2);
  EXPECT_THAT(second.collect(), ElementsAre(pages(1, 2)));
}

// A former engine was killed while it registered: what it protected is not registered, so it counts as written.
TEST_P(TrackerTest, ARegistrationThatWasCutOffIsFinished) {
  fill();
  const auto block = ram();
  {
    Tracker first = track(*block);
    first.reset();
  }
  sys::uffd_unregister(uffd_.get(), block->host_of({1024}), 1024 * kPageSize);
  Tracker second = track(*block, false);
  EXPECT_THAT(second.collect(), ElementsAre(pages(1024, 1024)));
  write(1030);
  EXPECT_THAT(second.collect(), ElementsAre(pages(1030, 1)));
}

TEST_P(TrackerTest, MemoryOfAnotherUserfaultfdIsRefused) {
  const auto block = ram();
  Tracker first = track(*block);
  try {
    Tracker other(new_uffd(), Fd::open("/proc/self/pagemap", O_RDONLY), *block, true, GetParam().two_step);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kBusy);
    EXPECT_FALSE(error.hint().empty());
  }
}

TEST_P(TrackerTest, DetachLeavesOrdinaryMemory) {
  fill();
  const auto block = ram();
  Tracker tracker = track(*block);
  tracker.reset();
  tracker.detach();
  fill();
  EXPECT_THROW(tracker.collect(), Error);
  tracker.detach();
  Fd again = new_uffd();
  Tracker other(std::move(again), Fd::open("/proc/self/pagemap", O_RDONLY), *block, true, GetParam().two_step);
  other.reset();
  write(3);
  EXPECT_THAT(other.collect(), ElementsAre(pages(3, 1)));
}

// A writer that never rests: after the last collect() every page equals the copy kept of it.
TEST_P(TrackerTest, NothingIsMissedBesideAWriter) {
  fill();
  const auto block = ram();
  Tracker tracker = track(*block);
  std::vector<char> copy(kPages, 0);
  std::atomic<bool> end = false;
  std::atomic<std::uint64_t> written = 0;
  std::vector<std::atomic_ref<char>> first_bytes;
  for (std::uint32_t i = 0; i < kPages; ++i) first_bytes.emplace_back(*(const_cast<char*>(memory_) + std::size_t{i} * kPageSize));
  std::thread writer([&] {
    std::minstd_rand random(1);
    while (!end) {
      ++first_bytes[random() % kPages];
      ++written;
    }
  });
  const auto take = [&] {
    for (const auto& range : tracker.collect()) {
      for (std::uint32_t i = range.first.value; i < range.first.value + range.count; ++i) copy[i] = first_bytes[i].load();
    }
  };
  for (int round = 0; round < 50; ++round) {
    const std::uint64_t before = written;
    while (written < before + 100) std::this_thread::yield();
    take();
  }
  end = true;
  writer.join();
  take();
  for (std::uint32_t i = 0; i < kPages; ++i) EXPECT_EQ(copy[i], first_bytes[i].load()) << i;
}

INSTANTIATE_TEST_SUITE_P(Modes, TrackerTest, testing::all_modes(), testing::name_of);

TEST(TrackerGone, AProcessThatEndedIsNoticed) {
  int ready[2];
  ASSERT_EQ(::pipe2(ready, O_CLOEXEC), 0);
  constexpr std::size_t kBytes = 16 * kPageSize;
  void* at = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const int uffd = new_uffd().release();
    if (::write(ready[1], &uffd, sizeof(uffd)) != sizeof(uffd)) _exit(1);
    for (;;) ::pause();
  }
  int number = -1;
  ASSERT_EQ(::read(ready[0], &number, sizeof(number)), static_cast<ssize_t>(sizeof(number)));
  ::close(ready[0]);
  ::close(ready[1]);
  const auto end_child = [&] {
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    ::munmap(at, kBytes);
  };
  if (number < 0) {
    end_child();
    GTEST_SKIP() << "no /dev/userfaultfd";
  }
  const Fd process = Fd::own(static_cast<int>(::syscall(434 /* pidfd_open */, child, 0)));
  Fd uffd = Fd::own(static_cast<int>(::syscall(438 /* pidfd_getfd */, process.get(), number, 0)));
  ASSERT_TRUE(uffd) << "pidfd_getfd";
  const Ram ram({RamBlock{"a", {reinterpret_cast<std::uintptr_t>(at)}, kBytes, false, false, 0, -1, {}}}, {});
  Tracker tracker(std::move(uffd), Fd::open("/proc/" + std::to_string(child) + "/pagemap", O_RDONLY), ram, true, false);
  tracker.collect();
  end_child();
  for (const auto& action : {std::function<void()>([&] { tracker.collect(); }), std::function<void()>([&] { tracker.reset(); }),
                             std::function<void()>([&] { tracker.collect_written(); })}) {
    try {
      action();
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kGone) << error.what();
    }
  }
  tracker.detach();
}

}  // namespace
}  // namespace mhv::guest
