#include "checkpoint/restore_mark.h"

#include <gtest/gtest.h>
#include <time.h>
#include <unistd.h>

#include <filesystem>

#include "base/error.h"
#include "base/fd.h"
#include "base/temp_folder_test.h"

namespace mhv::checkpoint {
namespace {

constexpr const char* kOne = "6f1c9f0e-5a4e-4d5c-9a51-0a8f4c1f7e11";
constexpr const char* kTwo = "0d5e7f2a-11aa-4c3b-8a51-aa8f4c1f7e22";

std::chrono::seconds uptime() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return std::chrono::seconds(now.tv_sec);
}

std::uint64_t started(std::chrono::seconds ago) {
  return static_cast<std::uint64_t>((uptime() - ago).count()) * static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
}

class RestoreMarkOf : public ::testing::Test {
 protected:
  RestoreMark of(std::int32_t pid, std::chrono::seconds ago = std::chrono::seconds(1)) { return {path_, {pid, started(ago)}}; }

  TempFolder folder_;
  const std::string path_ = folder_.file("restoring");
};

TEST_F(RestoreMarkOf, IsFoundByAnotherQemuUntilARestoreIsWhole) {
  of(1).set(kOne);
  EXPECT_EQ(of(2).left_behind(), kOne);
  EXPECT_EQ(of(3).left_behind(), kOne) << "the second ended, too, before it was done";
  of(3).set(kTwo);
  EXPECT_EQ(of(4).left_behind(), kTwo);
  of(4).clear();
  EXPECT_EQ(of(5).left_behind(), "");
}

TEST_F(RestoreMarkOf, OfTheSameQemuIsForTheRunState) {
  RestoreMark mark = of(1);
  mark.set(kOne);
  EXPECT_EQ(mark.left_behind(), "");
  EXPECT_EQ(of(2).left_behind(), "") << "or a later QEMU would restore what this one has left";
}

TEST_F(RestoreMarkOf, AGuestThatHasRunForLongIsNotTakenBack) {
  if (uptime() < std::chrono::minutes(12)) GTEST_SKIP() << "this host has just booted: nothing on it has run for long";
  of(1).set(kOne);
  EXPECT_EQ(of(2, std::chrono::minutes(11)).left_behind(), "");
  EXPECT_EQ(of(3).left_behind(), "");
}

TEST_F(RestoreMarkOf, DamageCountsAsNone) {
  for (const std::string& text : {std::string(), std::string("nova-mhv restoring 1 "), std::string(100'000, 'x')}) {
    replace_file(path_, std::as_bytes(std::span(text)));
    EXPECT_EQ(of(1).left_behind(), "");
    of(1).set(kOne);
    EXPECT_EQ(of(2).left_behind(), kOne);
  }
}

TEST_F(RestoreMarkOf, NeverSetIsNoErrorAndTakesItsPlaceOnTheDisk) {
  EXPECT_EQ(of(1).left_behind(), "");
  EXPECT_EQ(std::filesystem::file_size(path_), 512u);
  of(1).clear();
}

TEST(ParseRestoreMark, TakesOneWholeLine) {
  const std::string line = std::string("nova-mhv restoring 1 ") + kOne + " 42 4242\n";
  for (const std::string& whole : {line, line + std::string(512 - line.size(), '\0')}) {
    const auto found = parse_restore_mark(whole);
    ASSERT_TRUE(found.has_value());
    EXPECT_EQ(found->checkpoint, kOne);
    EXPECT_EQ(found->qemu, (ProcessId{42, 4242}));
  }
  EXPECT_FALSE(parse_restore_mark(std::string(512, '\0')).has_value());
  for (std::size_t length = 1; length < line.size(); ++length) EXPECT_THROW(parse_restore_mark(line.substr(0, length)), Error) << length;
  for (const char* wrong : {"nova-mhv restoring 2 a 1 1\n", "nova-mhv restoring 1 ../a 1 1\n", "nova-mhv restoring 1 a 1 -1\n",
                            "nova-mhv restoring 1 a 1 1\nx", "nova-mhv restoring 1 a 99999999999 1\n", "nova-mhv restoring 1  1 1\n"})
    EXPECT_THROW(parse_restore_mark(wrong), Error) << wrong;
}

}  // namespace
}  // namespace mhv::checkpoint
