#include <gtest/gtest.h>

#include <fstream>
#include <vector>

#include "base/fd.h"
#include "base/temp_folder_test.h"
#include "jail/cgroup.h"
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

TEST(CgroupTest, WritesTheLimits) {
  const TempFolder folder;
  Options options;
  options.cgroup = folder.path();
  options.uid = 7;
  options.memory_mib = 64;
  options.cpu_percent = 50;
  options.pids = 8;
  const std::string group = folder.file("layer-7");
  std::filesystem::create_directory(group);
  for (const char* file : {"memory.max", "memory.swap.max", "pids.max", "cpu.max", "cgroup.kill"}) std::ofstream(group + "/" + file) << "";
  const Cgroup cgroup(options);
  EXPECT_EQ(read_file(group + "/memory.max", 100), "67108864");
  EXPECT_EQ(read_file(group + "/memory.swap.max", 100), "0");
  EXPECT_EQ(read_file(group + "/pids.max", 100), "9");
  EXPECT_EQ(read_file(group + "/cpu.max", 100), "50000 100000");
}

}  // namespace
}  // namespace mhv::jail
