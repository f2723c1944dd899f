#include "keep/policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/error.h"

namespace mhv::keep {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kStart = 1'700'000'000 * kSecond;

std::vector<Moment> every(std::int64_t step_ns, std::size_t count) {
  std::vector<Moment> out;
  for (std::size_t i = 0; i < count; ++i) out.push_back({std::to_string(i), kStart + static_cast<std::int64_t>(i) * step_ns});
  return out;
}

void drop(std::vector<Moment>& all, const Policy& policy, std::int64_t now_ns) {
  const auto ids = policy.dropped(all, now_ns);
  const std::set<std::string> gone(ids.begin(), ids.end());
  EXPECT_EQ(gone.size(), ids.size());
  std::erase_if(all, [&](const Moment& one) { return gone.contains(one.id); });
}

TEST(Policy, ANumberKeepsTheNewest) {
  const auto all = every(kSecond, 25);
  EXPECT_EQ(Policy::parse("24").dropped(all, 0), std::vector<std::string>{"0"});
  EXPECT_EQ(Policy::parse("100").dropped(all, 0).size(), 0u);
  EXPECT_EQ(Policy::newest(0).dropped(all, 0).size(), 15u);
  EXPECT_EQ(Policy::newest(3).dropped({}, 0).size(), 0u);
}

TEST(Policy, ThinsWithAge) {
  const Policy policy = Policy::parse("1m:all,1h:1s,1d:1m");
  std::vector<Moment> all;
  const std::int64_t step = kSecond / 40;
  std::int64_t now = kStart;
  for (std::size_t i = 0; i < 40 * 7200; ++i) {  // two hours at 40 a second, thinned every second
    all.push_back({std::to_string(i), now});
    if (i % 40 == 39) drop(all, policy, now);
    now += step;
  }
  const auto younger = [&](std::int64_t age) {
    return std::ranges::count_if(all, [&](const Moment& one) { return now - one.created_ns <= age; });
  };
  EXPECT_NEAR(static_cast<double>(younger(60 * kSecond)), 2400, 45);
  EXPECT_NEAR(static_cast<double>(younger(3600 * kSecond)), 2400 + 3540, 50);
  EXPECT_NEAR(static_cast<double>(all.size()), 2400 + 3540 + 60, 55);
  now += 90'000 * kSecond;
  drop(all, policy, now);
  ASSERT_EQ(all.size(), 1u);  // the newest stays
  EXPECT_EQ(all.front().id, std::to_string(40 * 7200 - 1));
}

// Deciding often or once comes to the same: a gap in one tier would be one in all later ones.
TEST(Policy, DecidesTheSameStepByStep) {
  const Policy policy = Policy::parse("10s:all,100s:5s,1000s:50s");
  std::vector<Moment> often = every(kSecond, 900);
  std::vector<Moment> once = often, so_far;
  for (const Moment& one : often) {
    so_far.push_back(one);
    drop(so_far, policy, one.created_ns);
  }
  drop(once, policy, once.back().created_ns);
  ASSERT_EQ(so_far.size(), once.size());
  for (std::size_t i = 0; i < once.size(); ++i) EXPECT_EQ(so_far[i].id, once[i].id);
}

TEST(Policy, AClockThatWentBackDropsNothingYoung) {
  const auto all = every(kSecond, 5);
  EXPECT_EQ(Policy::parse("1m:all").dropped(all, kStart - 3600 * kSecond).size(), 0u);
}

TEST(Policy, NeverMoreThanTheMost) {
  const auto all = every(1000, kStayMax + 7);
  EXPECT_EQ(Policy::parse("520w:all").dropped(all, kStart).size(), 7u);
}

TEST(Policy, RefusesWhatIsWrong) {
  for (const char* text : {"",
                           "0",
                           "10001",
                           "-1",
                           "1.5",
                           "ten",
                           "10 ",
                           ":",
                           "1m",
                           "1m:",
                           ":all",
                           "1m:all,",
                           "1m:all,1m:1s",
                           "1h:1s,1m:all",
                           "1h:2s,2h:1s",
                           "1m:all,1h:all",
                           "0s:all",
                           "1m:0s",
                           "1x:all",
                           "1m:1y",
                           "1m:2m",
                           "1000000w:all",
                           "99999999999s:all",
                           "1m:all;1h:1s",
                           "1s:all,2s:1s,4s:2s,9s:3s,20s:4s,30s:5s,40s:6s,50s:7s,60s:8s"}) {
    try {
      Policy::parse(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kInvalid);
      EXPECT_NE(error.hint().find("1m:all,1h:1s,1d:1m"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace mhv::keep
