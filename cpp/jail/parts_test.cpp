#include <gtest/gtest.h>

#include <fstream>
#include <vector>

#include "base/fd.h"
#include "base/temp_folder_test.h"
#include "jail/cpu_share.h"
#include "jail/output.h"
#include "jail/subordinate.h"

namespace mhv::jail {
namespace {

TEST(Subordinate, FindsTheUsersFirstRange) {
  const std::string text =
      "root:1:2\nnova-mhvx:5:5\nnova-mhv:bad:3\nnova-mhv:0:9\nnova-mhv:4294967295:9\nnova-mhv:100000:65536\nnova-mhv:1:1\n";
  const auto range = subordinate_range(text, "nova-mhv");
  ASSERT_TRUE(range);
  EXPECT_EQ(range->first, 100000u);
  EXPECT_TRUE(range->contains(165535));
  EXPECT_FALSE(range->contains(165536));
  EXPECT_FALSE(range->contains(99999));
  EXPECT_FALSE(subordinate_range(text, "other"));
  EXPECT_FALSE(subordinate_range("nova-mhv", "nova-mhv"));
  EXPECT_FALSE(subordinate_range("nova-mhv:5", "nova-mhv"));
}

class OutputTest : public ::testing::Test {
 protected:
  const Output::Clock::time_point start_{};
  std::vector<std::string> lines_;
  Output output_{[this](const std::string& line) { lines_.push_back(line); }, start_};
};

TEST_F(OutputTest, ShowsNoBytesThatCouldForgeALine) {
  output_.add("one\ntw", start_);
  output_.add("o\x1b[2J\r\x80\n\n\nleft", start_);
  output_.finish();
  EXPECT_EQ(lines_, (std::vector<std::string>{"one", "two?[2J??", "left"}));
}

TEST_F(OutputTest, CutsLongLines) {
  output_.add(std::string(kLineMax + 5, 'x') + "\n", start_);
  ASSERT_EQ(lines_.size(), 2u);
  EXPECT_EQ(lines_[0].size(), kLineMax);
}

TEST_F(OutputTest, DropsWhatComesTooFastAndSaysSo) {
  const std::string burst = std::string(99, 'x') + "\n";
  for (std::size_t i = 0; i < 2 * kBurstBytes / burst.size(); ++i) output_.add(burst, start_);
  const std::size_t shown = lines_.size();
  EXPECT_LE(shown, kBurstBytes / burst.size());
  output_.add("later\n", start_ + std::chrono::seconds(1));
  ASSERT_GT(lines_.size(), shown);
  EXPECT_NE(lines_[shown].find("bytes too many were dropped"), std::string::npos);
  EXPECT_NE(lines_.back().find("later"), std::string::npos);
}

using namespace std::chrono_literals;

TEST(CpuShareTest, StopsWhoUsesMoreAndLetsItGoOn) {
  CpuShare::Clock::time_point now{};
  CpuShare share(50, 2, now);
  auto verdict = share.look(0s, now);
  EXPECT_FALSE(verdict.stop);
  EXPECT_EQ(verdict.look_again, 2500ms);  // two threads may have used five seconds by then
  verdict = share.look(5s, now += 2500ms);
  EXPECT_FALSE(verdict.stop);
  verdict = share.look(8s, now += 1500ms);
  EXPECT_TRUE(verdict.stop);
  EXPECT_EQ(verdict.look_again, 4520ms);  // 2.25 s too many, and 10 ms to go on with
  EXPECT_TRUE(share.look(8s, now += 4500ms).stop);
  EXPECT_FALSE(share.look(8s, now += 20ms).stop);
  EXPECT_EQ(share.look(8s, now += 1h).look_again, 2500ms);  // what is not used is not kept for ever
}

}  // namespace
}  // namespace mhv::jail
