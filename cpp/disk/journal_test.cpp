// The journal against a plain array: every request, of any alignment, through kills, folding, compaction and a full disk.
#include "disk/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "disk/disk_testing.h"
#include "disk/format.h"

namespace mhv::disk {
namespace {

constexpr std::uint64_t kBytes = 200 * kBlockBytes + 1536;  // the last block is not whole

JournalOptions small(std::uint32_t segments_max = 12) {
  JournalOptions options;
  options.segment_blocks = 256;
  options.segments_max = segments_max;
  options.segments_kept = 4;
  return options;
}

MarkName name(std::uint64_t number) { return {7, number}; }

// A disk whose contents are known, under the journal that is tested.
class World {
 public:
  explicit World(unsigned seed, JournalOptions options = small(), std::uint64_t bytes = kBytes) : random_(seed), options_(options) {
    disk_.base.now.resize(bytes);
    for (std::byte& byte : disk_.base.now) byte = static_cast<std::byte>(random_());
    disk_.base.durable = disk_.base.now;
    now_ = disk_.base.now;
    open();
  }
  void open() {
    journal_.reset();
    journal_ = std::make_unique<Journal>(std::make_unique<MemoryFolder>(disk_), std::make_unique<MemoryImage>(disk_), options_);
  }

  std::pair<std::uint64_t, std::uint64_t> range(std::uint64_t most) {
    const bool aligned = random_() % 2 == 0;
    std::uint64_t offset = random_() % now_.size();
    if (aligned) offset = offset / kBlockBytes * kBlockBytes;
    std::uint64_t bytes = random_() % most + 1;
    if (aligned) bytes = (bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
    return {offset, std::min<std::uint64_t>(bytes, now_.size() - offset)};
  }
  void write(std::uint64_t offset, std::uint64_t bytes) {
    Bytes data(bytes);
    for (std::byte& byte : data) byte = static_cast<std::byte>(random_());
    journal_->write(data, offset);
    std::ranges::copy(data, now_.begin() + static_cast<std::ptrdiff_t>(offset));
  }
  void zero(std::uint64_t offset, std::uint64_t bytes) {
    journal_->zero(bytes, offset);
    std::fill_n(now_.begin() + static_cast<std::ptrdiff_t>(offset), bytes, std::byte{0});
  }
  // What it did is up to the journal, but each block is as it was, or zeros.
  void discard(std::uint64_t offset, std::uint64_t bytes) {
    journal_->discard(bytes, offset);
    const Bytes seen = content();
    for (std::uint64_t at = 0; at < now_.size(); at += kBlockBytes) {
      const std::uint64_t n = std::min<std::uint64_t>(kBlockBytes, now_.size() - at);
      if (std::memcmp(&seen[at], &now_[at], n) == 0) continue;
      ASSERT_TRUE(at >= offset && at + n <= offset + bytes) << at;
      ASSERT_TRUE(std::all_of(&seen[at], &seen[at] + n, [](std::byte byte) { return byte == std::byte{0}; })) << at;
    }
    now_ = seen;
  }
  void mark(std::uint64_t number) {
    journal_->mark(name(number));
    marks_[number] = now_;
  }
  void rollback(std::uint64_t number) {
    journal_->rollback(name(number));
    now_ = marks_.at(number);
  }
  void drop(std::uint64_t number) {
    journal_->drop(name(number));
    marks_.erase(number);
  }
  std::uint64_t any_mark() { return std::next(marks_.begin(), static_cast<std::ptrdiff_t>(random_() % marks_.size()))->first; }

  Bytes content() {
    Bytes out(now_.size());
    journal_->read(out, 0);
    return out;
  }
  void check() { ASSERT_TRUE(content() == now_); }
  // Each mark's content, and that going to and fro leaves nothing behind.
  void check_marks() {
    std::vector<MarkName> expected;
    for (const auto& [number, bytes] : marks_) expected.push_back(name(number));
    ASSERT_THAT(journal_->marks(), testing::UnorderedElementsAreArray(expected));
    check_known_marks();
  }
  void check_known_marks() {
    for (const auto& [number, bytes] : marks_) {
      rollback(number);
      ASSERT_TRUE(content() == bytes) << "mark " << number;
    }
  }

  void random_step() {
    const auto dice = random_() % 100;
    const auto [offset, bytes] = range(12 * kBlockBytes);
    if (dice < 45) return write(offset, bytes);
    if (dice < 50) return zero(offset, bytes);
    if (dice < 55) return discard(offset, bytes);
    if (dice < 70) return mark(next_mark_++);
    if (dice < 75 && !marks_.empty()) return rollback(any_mark());
    if (dice < 88 && marks_.size() > random_() % 12) return drop(any_mark());
    if (dice < 92) return void(journal_->maintain());
    if (dice < 95) return journal_->flush();
    if (dice < 97) return open();  // killed: nothing is synced, and everything is there
    Bytes part(bytes);
    journal_->read(part, offset);
    ASSERT_EQ(std::memcmp(part.data(), &now_[offset], bytes), 0);
  }

  std::mt19937 random_;
  JournalOptions options_;
  MemoryDisk disk_;
  Bytes now_;
  std::map<std::uint64_t, Bytes> marks_;
  std::uint64_t next_mark_ = 1;
  std::unique_ptr<Journal> journal_;
};

class JournalModel : public testing::TestWithParam<unsigned> {};

TEST_P(JournalModel, IsAPlainDisk) {
  World world(GetParam());
  for (int i = 0; i < 600; ++i) {
    ASSERT_NO_FATAL_FAILURE(world.random_step()) << "step " << i;
    if (i % 20 != 0) continue;
    ASSERT_NO_FATAL_FAILURE(world.check()) << "step " << i;
  }
  world.check();
  world.check_marks();
  world.open();
  world.check();
  world.check_marks();
  while (!world.marks_.empty()) world.drop(world.any_mark());
  ASSERT_TRUE(world.journal_->fold_all());
  EXPECT_TRUE(world.disk_.base.now == world.now_) << "the base image alone is the disk";
  EXPECT_EQ(world.journal_->stat().live_bytes, 0u);
}

INSTANTIATE_TEST_SUITE_P(Seeds, JournalModel, testing::Range(0u, 40u));

TEST(Journal, GivesSpaceBackWhenMarksAreDropped) {
  World world(1);
  for (std::uint64_t i = 1; i <= 400; ++i) {  // far more than the log holds
    world.write(i % 20 * kBlockBytes, 8 * kBlockBytes);
    if (i % 4 == 0) world.write((30 + i / 4) * kBlockBytes, kBlockBytes);  // written once: it has to be folded
    world.mark(i);
    if (i > 10) world.drop(i - 10);
    world.journal_->maintain();
  }
  world.check_marks();
  const JournalStat stat = world.journal_->stat();
  EXPECT_GT(stat.folded_blocks, 0u);
  EXPECT_LE(stat.live_bytes, (10 * 9 + 130) * kBlockBytes) << "a version for each mark and block, and the newest ones";
}

TEST(Journal, KeepsAnOldMarkByCopying) {
  World world(2);
  world.mark(0);
  for (std::uint64_t i = 0; i < 6000; ++i) {
    const bool once = i % 10 == 0 && i < 1000;  // these stay alive in segments whose other slots die
    world.write((once ? i / 10 : 100 + i % 11) * kBlockBytes, kBlockBytes);
    world.journal_->maintain();
  }
  EXPECT_GE(world.journal_->stat().moved_blocks, 100u);
  EXPECT_LE(world.journal_->stat().log_bytes, 8 * 256 * kBlockBytes);
  world.check();
  world.check_marks();
}

TEST(Journal, FullOfMarksRefusesAndLosesNothing) {
  World world(3);
  std::uint64_t number = 0;
  const auto fill = [&] {
    for (;;) {
      world.write(number % 100 * kBlockBytes, 20 * kBlockBytes);
      world.mark(++number);
    }
  };
  try {
    fill();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kNoSpace);
  }
  // The write that was refused is there in part, as on any disk.
  world.now_ = world.content();
  world.check_marks();
  world.open();
  world.check_marks();
  while (world.marks_.size() > 3) world.drop(world.marks_.begin()->first);
  world.rollback(number);
  for (int i = 0; i < 100; ++i) world.write(0, 50 * kBlockBytes);
  world.check();
  world.check_marks();
}

TEST(Journal, FullFileSystemRefusesAndLosesNothing) {
  World world(4);
  world.disk_.power.bytes_max = 6 * 256 * kBlockBytes;
  std::uint64_t number = 0;
  try {
    for (;;) {
      world.mark(++number);
      world.write(0, 100 * kBlockBytes);
    }
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kNoSpace);
  }
  world.now_ = world.content();
  world.check_marks();
  world.open();
  world.check_marks();
  while (world.marks_.size() > 4) world.drop(world.marks_.begin()->first);
  world.rollback(number);
  for (int i = 0; i < 50; ++i) world.write(0, 100 * kBlockBytes);
  world.check();
  world.check_marks();
}

TEST(Journal, TenThousandMarks) {
  World world(5, small(200));
  constexpr std::uint64_t kMarks = 10000;
  std::uint64_t kept = 0;
  for (std::uint64_t i = 1; i <= kMarks; ++i) {
    world.write(i % 200 * kBlockBytes, kBlockBytes);
    world.journal_->mark(name(i));
    if (i == 2500 || i == 9000) world.marks_[kept = i] = world.now_;
  }
  EXPECT_EQ(world.journal_->stat().marks, kMarks);
  world.check_known_marks();
  world.open();
  EXPECT_EQ(world.journal_->stat().marks, kMarks);
  world.check_known_marks();
  for (std::uint64_t i = 1; i <= kMarks; ++i) {
    if (!world.marks_.contains(i)) world.journal_->drop(name(i));
  }
  world.check_marks();
  EXPECT_LE(world.journal_->stat().live_bytes, 3 * 201 * kBlockBytes);
}

TEST(Journal, RefusesWhatItCannotDo) {
  World world(6);
  const auto code = [](auto&& action) {
    try {
      action();
    } catch (const Error& error) {
      return error.code();
    }
    return Code::kInternal;
  };
  world.mark(1);
  EXPECT_EQ(code([&] { world.journal_->mark(name(1)); }), Code::kExists);
  EXPECT_EQ(code([&] { world.journal_->rollback(name(2)); }), Code::kNotFound);
  EXPECT_EQ(code([&] { world.journal_->drop(name(2)); }), Code::kNotFound);
  EXPECT_EQ(code([&] { world.journal_->fold_all(); }), Code::kBusy);
  EXPECT_EQ(code([&] { world.journal_->zero(2, kBytes - 1); }), Code::kInvalid);
  EXPECT_EQ(code([&] { world.journal_->zero(1, ~std::uint64_t{0}); }), Code::kInvalid);
  world.disk_.base.now.resize(kBytes + 512);
  EXPECT_EQ(code([&] { world.open(); }), Code::kInvalid) << "another base image";
}

TEST(Journal, BeginsInPreparedSegments) {
  MemoryDisk disk;
  disk.base.now.resize(64 * kBlockBytes);
  MemoryFolder folder(disk);
  prepare_journal(folder, small());
  disk.now[segment_name(9)] = disk.now.at(segment_name(3));  // of no use
  disk.power.bytes_max = disk.used() + 4096;
  Journal journal(std::make_unique<MemoryFolder>(disk), std::make_unique<MemoryImage>(disk), small());
  EXPECT_EQ(journal.stat().log_bytes, 3 * 256 * kBlockBytes);
  journal.write(Bytes(64 * kBlockBytes, std::byte{1}), 0);  // there is no room for another segment
  Bytes seen(64 * kBlockBytes);
  journal.read(seen, 0);
  EXPECT_EQ(seen, Bytes(64 * kBlockBytes, std::byte{1}));
}

TEST(Journal, DamageOfTheIndexIsSaid) {
  for (const std::size_t at : {0u, 9u, 30u, 79u, 85u, 200u}) {
    World world(7);
    world.write(0, 50 * kBlockBytes);
    world.mark(1);
    world.open();
    world.disk_.now.at("INDEX")->now.at(at) ^= std::byte{1};
    EXPECT_THROW(world.open(), Error) << at;
  }
}

// Several threads, each with blocks of its own; a thread that folds; one that flushes. For ThreadSanitizer as much as for the result.
TEST(Journal, IsThreadSafe) {
  const std::string path = testing::TempDir() + "journal-" + std::to_string(::getpid());
  const std::string image = path + ".raw";
  { std::ofstream(image).seekp(600 * kBlockBytes - 1).put(0); }
  {
    Journal journal(open_folder(path), open_raw_image(image), small(20));
    EXPECT_THROW(open_folder(path), Error) << "locked";
    EXPECT_THROW(open_raw_image(image), Error) << "locked";
    std::atomic<bool> done = false;
    std::thread cleaner([&] {
      while (!done) {
        journal.maintain();
        journal.flush();
      }
    });
    std::vector<std::thread> writers;
    for (unsigned t = 0; t < 3; ++t) {
      writers.emplace_back([&journal, t] {
        std::mt19937 random(t);
        Bytes expected(200 * kBlockBytes), seen(expected.size());
        for (int i = 0; i < 400; ++i) {
          const std::size_t at = random() % 190 * kBlockBytes;
          std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(at), 10 * kBlockBytes, static_cast<std::byte>(i));
          journal.write(std::span(expected).subspan(at, 10 * kBlockBytes), t * expected.size() + at);
          if (i % 10 == 0) journal.mark({t, static_cast<std::uint64_t>(i)});
          if (i % 10 == 9) journal.drop({t, static_cast<std::uint64_t>(i - 9)});
        }
        journal.read(seen, t * seen.size());
        EXPECT_TRUE(seen == expected);
      });
    }
    for (std::thread& writer : writers) writer.join();
    done = true;
    cleaner.join();
    EXPECT_TRUE(journal.fold_all());
  }
  std::filesystem::remove_all(path);
  std::filesystem::remove(image);
}

}  // namespace
}  // namespace mhv::disk
