// On memory of the test's own, tracked and filled as QEMU's is.
#include "checkpoint/filler.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <future>
#include <numeric>

#include "checkpoint/fault_order.h"
#include "guest/tracker.h"
#include "guest/uffd_abi.h"

namespace mhv::checkpoint {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::uint32_t kPages = 4096;
constexpr std::size_t kBytes = kPages * kPageSize;
constexpr auto kPatience = std::chrono::seconds(60);

void no_progress(const char*, std::uint64_t, std::uint64_t) {}

// Every third page is one of zeros.
bool has_content(std::uint32_t page) { return page % 3 != 0; }

std::vector<std::byte> content_of(std::uint32_t page) {
  std::vector<std::byte> content(kPageSize);
  if (!has_content(page)) return content;
  for (std::size_t i = 0; i < kPageSize; i += sizeof(page)) std::memcpy(content.data() + i, &page, sizeof(page));
  return content;
}

// GetParam(): shared memory.
class FillerTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    const int device = ::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (device < 0) GTEST_SKIP() << "no /dev/userfaultfd";
    const Fd owner = Fd::own(device);
    uffd_ = Fd::own(::ioctl(device, guest::abi::kIoctlNewUffd, O_CLOEXEC | O_NONBLOCK));
    file_ = Fd::memory("filled");
    ASSERT_EQ(::ftruncate(file_.get(), kBytes), 0);
    void* at = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, GetParam() ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS,
                      GetParam() ? file_.get() : -1, 0);
    ASSERT_NE(at, MAP_FAILED);
    memory_ = static_cast<volatile char*>(at);
    std::string pattern = "/tmp/mhv-filler-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
    make_checkpoint();
    ram_ = std::make_unique<guest::Ram>(ram());
    tracker_ = std::make_unique<guest::Tracker>(uffd_.duplicate(), pagemap(), *ram_, true, false);
  }
  void TearDown() override {
    filler_.reset();
    if (memory_ != nullptr) {
      guest::MissingPages(uffd_.duplicate(), pagemap(), ram()).disarm_private();
      ::munmap(const_cast<char*>(memory_), kBytes);
    }
    std::filesystem::remove_all(folder_);
  }

  void make_checkpoint() {
    store_ = store::Store::open(folder_ + "/store");
    store::Writer writer = store_->begin("");
    for (std::uint32_t i = 0; i < kPages; ++i) {
      if (has_content(i)) writer.put(PageNo{i}, std::span<const std::byte, kPageSize>(content_of(i)));
    }
    store::CheckpointInfo info;
    info.id = id_;
    info.blocks = {{"block", kBytes, false}};
    writer.put_device_state(std::vector<std::byte>(10));
    writer.commit(std::move(info));
  }
  guest::Ram ram() {
    guest::RamBlock block;
    block.name = "block";
    block.host = {reinterpret_cast<std::uintptr_t>(memory_)};
    block.bytes = kBytes;
    block.shared = GetParam();
    std::vector<Fd> fds;
    fds.push_back(file_.duplicate());
    block.fd = fds[0].get();
    return guest::Ram({block}, std::move(fds));
  }
  static Fd pagemap() { return Fd::open("/proc/self/pagemap", O_RDONLY); }
  void make_filler() {
    filler_ = std::make_unique<Filler>(guest::MissingPages(uffd_.duplicate(), pagemap(), ram()), *store_, id_, store_->resolve(id_),
                                       folder_ + "/order", [this] { ++changes_; });
  }
  std::vector<std::byte> read(std::uint32_t page) {
    std::vector<std::byte> out(kPageSize);
    std::memcpy(out.data(), const_cast<const char*>(memory_) + std::size_t{page} * kPageSize, kPageSize);
    return out;
  }
  void write(std::uint32_t page) { memory_[std::size_t{page} * kPageSize] = 'w'; }
  void give_back(std::uint32_t page) {
    if (GetParam()) {
      ASSERT_EQ(::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, page * off_t{kPageSize}, kPageSize), 0);
    } else {
      ASSERT_EQ(::madvise(const_cast<char*>(memory_) + std::size_t{page} * kPageSize, kPageSize, MADV_DONTNEED), 0);
    }
  }
  void expect_all_right() {
    for (std::uint32_t i = 0; i < kPages; ++i) ASSERT_EQ(read(i), content_of(i)) << "page " << i;
  }

  const std::string id_ = "11111111-2222-4333-8444-555555555555";
  Fd uffd_, file_;
  volatile char* memory_ = nullptr;
  std::string folder_;
  std::unique_ptr<store::Store> store_;
  std::unique_ptr<guest::Ram> ram_;
  std::unique_ptr<guest::Tracker> tracker_;
  std::unique_ptr<Filler> filler_;
  std::atomic<int> changes_ = 0;
};

TEST_P(FillerTest, AnAccessGetsThePageOfTheCheckpoint) {
  tracker_->reset();
  make_filler();
  EXPECT_THAT(filler_->begin(), IsEmpty());
  for (const std::uint32_t page : {4u, 0u, 4095u, 1234u, 5u, 3u}) EXPECT_EQ(read(page), content_of(page)) << page;
  EXPECT_FALSE(filler_->filled());
  expect_all_right();
}

TEST_P(FillerTest, WhatIsFilledIsNotWrittenAndWhatIsWrittenIsReported) {
  tracker_->reset();
  make_filler();
  filler_->begin();
  write(7);
  write(9);  // of zeros
  filler_->prefetch();
  filler_->wait(no_progress, kPatience);
  write(4000);
  EXPECT_THAT(tracker_->collect(), ::testing::ElementsAre(PageRange{{7}, 1}, PageRange{{9}, 1}, PageRange{{4000}, 1}));
  filler_->end();
  const auto after = tracker_->collect();
  if (GetParam()) {
    EXPECT_THAT(after, IsEmpty()) << "written bits outlast the end of the fill";
  }
  write(8);
  bool found = false;
  for (const PageRange& range : tracker_->collect()) found |= range.first.value <= 8 && 8 < range.first.value + range.count;
  EXPECT_TRUE(found) << "tracking goes on";
}

TEST_P(FillerTest, ZerosTakeNoMemory) {
  tracker_->reset();
  make_filler();
  filler_->begin();
  filler_->prefetch();
  filler_->wait(no_progress, kPatience);
  guest::MissingPages look(uffd_.duplicate(), pagemap(), ram());
  std::uint32_t there = 0;
  for (const PageRange& range : look.present()) there += range.count;
  EXPECT_EQ(there, filler_->pages());
  filler_->end();
  EXPECT_EQ(read(0), content_of(0)) << "nobody serves any more, and nobody has to";
}

TEST_P(FillerTest, PagesThatAreThereStay) {
  write(10);
  write(12);
  tracker_->reset();
  make_filler();
  EXPECT_THAT(filler_->begin(), ::testing::ElementsAre(PageRange{{10}, 1}, PageRange{{12}, 1}));
  filler_->prefetch();
  filler_->wait(no_progress, kPatience);
  EXPECT_EQ(memory_[10 * kPageSize], 'w');
  EXPECT_EQ(read(11), content_of(11));
}

TEST_P(FillerTest, AnotherEngineGoesOnWithWhatWaits) {
  tracker_->reset();
  make_filler();
  filler_->begin();
  EXPECT_EQ(read(100), content_of(100));
  write(101);
  filler_.reset();
  // One access whose fault nobody has read, and one whose fault was read by an engine that died then.
  auto first = std::async(std::launch::async, [&] { return read(200); });
  guest::MissingPages dead(uffd_.duplicate(), pagemap(), ram());
  while (dead.faults().empty()) dead.wait(-1, 1000);
  auto second = std::async(std::launch::async, [&] { return read(300); });
  dead.wait(-1, -1);
  make_filler();
  EXPECT_THAT(filler_->take_over(), ::testing::Contains(PageRange{{100}, 2}));
  EXPECT_EQ(first.get(), content_of(200));
  EXPECT_EQ(second.get(), content_of(300));
  filler_->prefetch();
  filler_->wait(no_progress, kPatience);
  EXPECT_EQ(memory_[101 * kPageSize], 'w') << "what the guest wrote is not filled again";
  EXPECT_THAT(tracker_->collect(), ::testing::ElementsAre(PageRange{{101}, 1}));
}

TEST_P(FillerTest, WhatTheGuestGaveBackIsZeroAndCountsAsWritten) {
  tracker_->reset();
  make_filler();
  filler_->begin();
  EXPECT_EQ(read(50), content_of(50));
  give_back(50);
  EXPECT_EQ(read(50), std::vector<std::byte>(kPageSize));
  give_back(700);  // not filled yet: it keeps its content, which the guest may not rely on
  filler_->prefetch();
  filler_->wait(no_progress, kPatience);
  EXPECT_EQ(read(700), content_of(700));
  EXPECT_THAT(tracker_->collect(), ::testing::Contains(PageRange{{50}, 1}));
}

TEST_P(FillerTest, WhatTheGuestGaveBackAndLeftAloneCountsAsWritten) {
  tracker_->reset();
  make_filler();
  filler_->begin();
  EXPECT_EQ(read(50), content_of(50));
  give_back(50);
  filler_->prefetch();
  filler_->wait(no_progress, kPatience);
  filler_->end();
  tracker_->were_mapped(filler_->with_content());
  guest::PageSet found(kPages);
  found.add(tracker_->collect());
  EXPECT_TRUE(found.contains(PageNo{50}));
  EXPECT_EQ(read(50), std::vector<std::byte>(kPageSize));
}

TEST_P(FillerTest, RoomWithoutContentIsMissing) {
  if (!GetParam()) GTEST_SKIP() << "of files only";
  ASSERT_EQ(::fallocate(file_.get(), 0, 0, kBytes), 0);
  tracker_->reset();
  make_filler();
  EXPECT_THAT(filler_->begin(), IsEmpty());
  expect_all_right();
}

TEST_P(FillerTest, APageThatCannotBeReadIsToldAndComesWhenItCanBe) {
  tracker_->reset();
  make_filler();
  const std::string segments = folder_ + "/store/segments";
  std::filesystem::path segment;
  for (const auto& entry : std::filesystem::directory_iterator(segments)) {
    if (entry.path().extension() == ".seg") segment = entry.path();
  }
  const auto bytes = std::filesystem::file_size(segment);
  const std::string whole = read_file(segment, bytes);
  std::filesystem::resize_file(segment, 0);
  filler_->begin();
  auto access = std::async(std::launch::async, [&] { return read(1); });
  EXPECT_THROW(filler_->wait(no_progress, kPatience), Error);
  EXPECT_THAT(filler_->problem(), HasSubstr(segment.filename().string()));
  {
    const Fd file = Fd::open(segment, O_WRONLY);
    pwrite_all(file.get(), std::as_bytes(std::span(whole)), 0, "segment");
  }
  EXPECT_EQ(access.get(), content_of(1)) << "it waited";
  EXPECT_GT(changes_, 0);
  filler_->prefetch();
  while (!filler_->filled()) ::usleep(1000);
  filler_->end();
  expect_all_right();
}

TEST_P(FillerTest, RemembersWhatWasNeeded) {
  tracker_->reset();
  make_filler();
  filler_->begin();
  for (const std::uint32_t page : {4000u, 2000u, 1000u}) read(page);
  filler_->prefetch();
  filler_->wait(no_progress, kPatience);
  filler_->end();
  EXPECT_THAT(load_fault_order(folder_ + "/order"), ::testing::ElementsAre(PageNo{4000}, PageNo{2000}, PageNo{1000}));
}

TEST(FaultOrder, IsReadAsItWasWrittenAndElseRefused) {
  std::string pattern = "/tmp/mhv-order-XXXXXX";
  const std::string folder = ::mkdtemp(pattern.data());
  std::vector<PageNo> pages(kFaultOrderMax + 5);
  for (std::uint32_t i = 0; i < pages.size(); ++i) pages[i] = PageNo{i * 7};
  save_fault_order(folder + "/order", pages);
  pages.resize(kFaultOrderMax);
  EXPECT_EQ(load_fault_order(folder + "/order"), pages);
  std::string text = read_file(folder + "/order", 1u << 20);
  std::filesystem::remove_all(folder);
  EXPECT_THAT(load_fault_order(folder + "/order"), IsEmpty());
  for (const std::size_t length : {0, 4, 8, 11, 13}) {
    EXPECT_THROW(parse_fault_order(std::as_bytes(std::span(text).first(length))), Error) << length;
  }
  text[0] = 'm';
  EXPECT_THROW(parse_fault_order(std::as_bytes(std::span(text))), Error);
}

INSTANTIATE_TEST_SUITE_P(Memory, FillerTest, ::testing::Bool(), [](const auto& of) { return of.param ? "shared" : "private"; });

}  // namespace
}  // namespace mhv::checkpoint
