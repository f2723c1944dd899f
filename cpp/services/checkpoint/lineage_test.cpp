#include "checkpoint/lineage.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <optional>

namespace mhv::checkpoint {
namespace {

constexpr std::uint32_t kPages = 16;
constexpr std::size_t kBytes = kPages * kPageSize;

// Memory of this process, as if it were a guest's.
class LineageTest : public testing::Test {
 protected:
  void SetUp() override {
    const Fd device = Fd::own(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
    if (!device) GTEST_SKIP() << "no /dev/userfaultfd";
    Fd uffd = Fd::own(::ioctl(device.get(), _IO(0xaa, 0), O_CLOEXEC | O_NONBLOCK));
    ASSERT_TRUE(uffd);
    void* const at = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(at, MAP_FAILED);
    memory_ = static_cast<volatile char*>(at);
    ram_.emplace(std::vector{guest::RamBlock{"a", {reinterpret_cast<std::uintptr_t>(at)}, kBytes, false, false, 0, -1, {}}},
                 std::vector<Fd>{});
    tracker_.emplace(std::move(uffd), Fd::open("/proc/self/pagemap", O_RDONLY), *ram_, true, false);
    written_.emplace(*tracker_);
    lineage_.emplace(kPages, *written_, state_, true);
    lineage_->begin();
    lineage_->saved("one");
  }
  void TearDown() override {
    if (memory_ != nullptr) ::munmap(const_cast<char*>(memory_), kBytes);
  }
  void write(std::uint32_t page) { memory_[std::size_t{page} * kPageSize] = 1; }

  const Fd file_ = Fd::memory("state");
  RunState state_{file_};
  volatile char* memory_ = nullptr;
  std::optional<guest::Ram> ram_;
  std::optional<guest::Tracker> tracker_;
  std::optional<guest::WrittenPages> written_;
  std::optional<Lineage> lineage_;
};

TEST_F(LineageTest, ANewWorkerBelievesTheBaseWhenNobodyLookedSince) {
  EXPECT_EQ(state_.base(), "one");
  write(3);
  EXPECT_EQ(state_.base(), "one");
}

TEST_F(LineageTest, ANewWorkerDoesNotBelieveTheBaseAfterAnybodysLook) {
  write(3);
  EXPECT_EQ(written_->collect().size(), 1U);  // a layer's, say: from here on the kernel no longer reports page 3
  EXPECT_EQ(state_.base(), "");
  EXPECT_EQ(lineage_->base(), "one");
}

TEST_F(LineageTest, WhatAnotherFoundIsUnsavedUntilTheNextCheckpoint) {
  write(3);
  written_->collect();
  write(5);
  const guest::PageSet pages = lineage_->begin();
  EXPECT_TRUE(pages.contains(PageNo{3}));
  EXPECT_TRUE(pages.contains(PageNo{5}));
  EXPECT_EQ(pages.count(), 2U);
  lineage_->saved("two");
  EXPECT_EQ(lineage_->unsaved().count(), 0U);
  EXPECT_EQ(state_.base(), "two");
}

TEST_F(LineageTest, OthersAreToldWhatItFound) {
  guest::PageSet heard(kPages);
  bool all = false;
  {
    const auto listener = written_->listen({.tell = [&](const std::vector<PageRange>* pages) {
      all |= pages == nullptr;
      if (pages != nullptr) heard.add(*pages);
    }});
    write(7);
    lineage_->begin();
    EXPECT_TRUE(heard.contains(PageNo{7}));
    EXPECT_FALSE(all);
    lineage_->lose();
    lineage_->begin();
    EXPECT_TRUE(all);
  }
  write(9);
  lineage_->saved("two");
  lineage_->begin();
  EXPECT_FALSE(heard.contains(PageNo{9}));  // it listens no longer
}

}  // namespace
}  // namespace mhv::checkpoint
