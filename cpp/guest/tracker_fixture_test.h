// For tests of Tracker: memory of the test's own; what holds for it holds for QEMU's, whose userfaultfd is injected elsewhere.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <memory>
#include <utility>
#include <vector>

#include "guest/tracker.h"
#include "guest/tracker_modes_test.h"

namespace mhv::guest::testing {

// One block of 4,096 pages in the middle of a mapping.
class TrackerTest : public ::testing::TestWithParam<Mode> {
 protected:
  static constexpr std::uint32_t kPages = 4096;
  static constexpr std::size_t kBytes = kPages * kPageSize;

  void SetUp() override {
    uffd_ = new_uffd();
    if (!uffd_) GTEST_SKIP() << "no /dev/userfaultfd";
    file_ = Fd::memory("tracked");
    ASSERT_EQ(::ftruncate(file_.get(), kBytes), 0);
    const bool shared = GetParam().kind == Kind::kShared;
    void* at =
        ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, shared ? file_.get() : -1, 0);
    ASSERT_NE(at, MAP_FAILED);
    memory_ = static_cast<volatile char*>(at);
  }
  void TearDown() override {
    if (memory_ != nullptr) ::munmap(const_cast<char*>(memory_), kBytes);
  }
  void write(std::uint32_t page) { memory_[std::size_t{page} * kPageSize] = static_cast<char>(memory_[std::size_t{page} * kPageSize] + 1); }
  char read(std::uint32_t page) { return memory_[std::size_t{page} * kPageSize]; }
  void fill() {
    for (std::uint32_t i = 0; i < kPages; ++i) write(i);
  }
  // As a balloon gives memory back.
  void punch(std::uint32_t page, std::uint32_t count) {
    const auto offset = static_cast<off_t>(std::size_t{page} * kPageSize), length = static_cast<off_t>(std::size_t{count} * kPageSize);
    if (GetParam().kind == Kind::kShared) {
      ASSERT_EQ(::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length), 0);
    } else {
      ASSERT_EQ(::madvise(const_cast<char*>(memory_) + offset, static_cast<std::size_t>(length), MADV_DONTNEED), 0);
    }
  }
  std::unique_ptr<Ram> ram() {
    RamBlock block;
    block.name = "block";
    block.host = {reinterpret_cast<std::uintptr_t>(memory_)};
    block.bytes = kBytes;
    block.shared = GetParam().kind == Kind::kShared;
    std::vector<Fd> fds;
    fds.push_back(file_.duplicate());
    block.fd = fds[0].get();
    return std::make_unique<Ram>(std::vector<RamBlock>{block}, std::move(fds));
  }
  Tracker track(const Ram& ram, bool fresh = true) {
    return Tracker(uffd_.duplicate(), Fd::open("/proc/self/pagemap", O_RDONLY), ram, fresh, GetParam().two_step,
                   GetParam().host_swaps_function());
  }

  Fd uffd_, file_;
  volatile char* memory_ = nullptr;
};

inline PageRange pages(std::uint32_t first, std::uint32_t count) { return {{first}, count}; }

}  // namespace mhv::guest::testing
