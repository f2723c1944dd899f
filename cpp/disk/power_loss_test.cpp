// The power goes at every step of a long script, with every sector that was not synced there or not. What comes back has to be
// one of the states that the disk went through, no older than the last flush, with exactly the marks of that state, whole.
#include <gtest/gtest.h>

#include <optional>
#include <set>

#include "disk/disk_testing.h"
#include "disk/journal.h"

namespace mhv::disk {
namespace {

constexpr std::uint64_t kBlocks = 40;

using Tags = std::vector<std::uint32_t>;  // of each block: which write it was

struct State {
  Tags now = Tags(kBlocks);
  std::map<std::uint64_t, Tags> marks;
  friend bool operator==(const State&, const State&) = default;
};

MarkName name(std::uint64_t number) { return {9, number}; }

Bytes content(std::uint32_t tag) {
  Bytes out(kBlockBytes);
  for (std::size_t i = 0; i < out.size(); i += sizeof tag) std::memcpy(&out[i], &tag, sizeof tag);
  return out;
}

JournalOptions tiny() {
  JournalOptions options;
  options.segment_blocks = kChunkBlocks;
  options.segments_max = 12;
  options.segments_kept = 3;
  return options;
}

std::unique_ptr<Journal> open(MemoryDisk& disk) {
  return std::make_unique<Journal>(std::make_unique<MemoryFolder>(disk), std::make_unique<MemoryImage>(disk), tiny());
}

// The tag of each block; nullopt when a block is torn.
std::optional<Tags> read(Journal& journal) {
  Bytes all(kBlocks * kBlockBytes);
  journal.read(all, 0);
  Tags out(kBlocks);
  for (std::uint64_t i = 0; i < kBlocks; ++i) {
    std::memcpy(&out[i], &all[i * kBlockBytes], sizeof out[i]);
    if (std::memcmp(content(out[i]).data(), &all[i * kBlockBytes], kBlockBytes) != 0) return std::nullopt;
  }
  return out;
}

// A script of requests, the same for the same seed, and every state that it went through.
class Script {
 public:
  Script(unsigned seed, MemoryDisk& disk) : random_(seed), disk_(disk) { went_.push_back({}); }

  // Ends with PowerLoss when the disk says so.
  void run(Journal& journal, int steps) {
    for (int i = 0; i < steps; ++i) step(journal);
  }
  // Everything before is behind a flush.
  void continue_from(const State& state) {
    went_ = {state};
    durable_ = 0;
  }
  std::span<const State> possible() const { return std::span(went_).subspan(durable_); }

 private:
  // A state is noted before the request that makes it: the power may go when it is done and not yet acknowledged.
  State& next() { return went_.emplace_back(went_.back()); }

  void step(Journal& journal) {
    const auto dice = random_() % 100;
    const State& last = went_.back();
    if (dice < 50) {
      const std::uint64_t first = random_() % kBlocks;
      const std::uint64_t count = std::min<std::uint64_t>(random_() % 5 + 1, kBlocks - first);
      const std::uint32_t tag = ++tag_;
      Bytes data;
      for (std::uint64_t i = 0; i < count; ++i) {
        next().now[first + i] = tag;  // block by block
        const Bytes one = content(tag);
        data.insert(data.end(), one.begin(), one.end());
      }
      journal.write(data, first * kBlockBytes);
    } else if (dice < 55) {
      const std::uint64_t first = random_() % kBlocks;
      const std::uint64_t count = std::min<std::uint64_t>(random_() % 9 + 1, kBlocks - first);
      std::fill_n(next().now.begin() + static_cast<std::ptrdiff_t>(first), count, 0);
      journal.zero(count * kBlockBytes, first * kBlockBytes);
    } else if (dice < 68) {
      State& state = next();
      state.marks[++mark_] = state.now;
      journal.mark(name(mark_));
    } else if (dice < 80 && last.marks.size() > 3) {
      const std::uint64_t mark = any(last);
      next().marks.erase(mark);
      journal.drop(name(mark));
    } else if (dice < 84 && !last.marks.empty()) {
      const std::uint64_t mark = any(last);
      State& state = next();
      state.now = state.marks.at(mark);
      journal.rollback(name(mark));
    } else if (dice < 92) {
      const std::size_t reached = went_.size() - 1;
      journal.flush();
      durable_ = reached;
    } else {
      journal.maintain();
    }
  }
  std::uint64_t any(const State& state) {
    return std::next(state.marks.begin(), static_cast<std::ptrdiff_t>(random_() % state.marks.size()))->first;
  }

  std::mt19937 random_;
  MemoryDisk& disk_;
  std::vector<State> went_;
  std::size_t durable_ = 0;
  std::uint32_t tag_ = 0;
  std::uint64_t mark_ = 0;
};

// What a journal holds: now, and each mark by going there. On a copy of the disk, since it writes.
std::optional<State> look(const MemoryDisk& disk) {
  MemoryDisk copy = disk.clone();
  const auto journal = open(copy);
  State out;
  const auto now = read(*journal);
  if (!now) return std::nullopt;
  out.now = *now;
  for (const MarkName& mark : journal->marks()) {
    journal->rollback(mark);
    const auto tags = read(*journal);
    if (!tags) return std::nullopt;
    out.marks[mark.low] = *tags;
  }
  return out;
}

class PowerLossAt : public testing::TestWithParam<unsigned> {};

TEST_P(PowerLossAt, EveryStep) {
  const unsigned seed = GetParam();
  std::uint64_t at = 0;
  for (bool finished = false; !finished;) {
    at += at > 60 ? 5 + seed : 1;  // the beginning step by step
    MemoryDisk disk;
    disk.base.now.resize(kBlocks * kBlockBytes);
    disk.base.durable = disk.base.now;
    Script script(seed, disk);
    std::mt19937 luck(static_cast<unsigned>(at));
    disk.power.fail_at = at;
    // Two losses in a row: what the first left behind must not come back after the second.
    for (int round = 0; round < 2; ++round) {
      try {
        const auto journal = open(disk);
        script.run(*journal, round == 0 ? 250 : 40);
        finished = round == 0;
      } catch (const PowerLoss&) {
      }
      disk.lose_power(at % 5 == 0 ? nullptr : &luck);
      const auto seen = look(disk);
      ASSERT_TRUE(seen) << "a torn block, seed " << seed << " step " << at << " round " << round;
      const auto possible = script.possible();
      ASSERT_NE(std::ranges::find(possible, *seen), possible.end())
          << "neither flushed nor acknowledged, seed " << seed << " step " << at << " round " << round;
      script.continue_from(*seen);
      disk.power.steps = 0;
      disk.power.fail_at = luck() % 60 + 1;
    }
  }
  EXPECT_GT(at, 300u);
}

INSTANTIATE_TEST_SUITE_P(Seeds, PowerLossAt, testing::Range(0u, 6u));

// Three chunks are written, and only the third reaches the disk. The next life fills the first two again: the third fits
// behind them, but for its incarnation.
TEST(PowerLoss, AHoleStaysTheEnd) {
  MemoryDisk disk;
  disk.base.now.resize(kBlocks * kBlockBytes);
  disk.base.durable = disk.base.now;
  const auto fill = [](Journal& journal, std::uint32_t chunks, std::uint32_t tag) {
    for (std::uint32_t i = 0; i < chunks * kChunkEntries; ++i) journal.write(content(tag), i % kBlocks * kBlockBytes);
  };
  {
    const auto journal = open(disk);
    fill(*journal, 3, 1);
  }
  disk.now.at(segment_name(3))->sync();
  disk.lose_power(nullptr);
  {
    const auto journal = open(disk);
    fill(*journal, 2, 2);
    journal->flush();
  }
  disk.lose_power(nullptr);
  const auto journal = open(disk);
  EXPECT_EQ(read(*journal), Tags(kBlocks, 2));
}

}  // namespace
}  // namespace mhv::disk
