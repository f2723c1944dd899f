#include "checkpoint/pace.h"

#include <gtest/gtest.h>

namespace mhv::checkpoint {
namespace {

using namespace std::chrono_literals;
using Clock = Pace::Clock;

const Clock::time_point kStart{1000s};

TEST(Pace, NeverWithoutAnInterval) { EXPECT_EQ(Pace().due(), Pace::kNever); }

TEST(Pace, KeepsTheIntervalWhileItIsCheap) {
  Pace pace(25ms, 0.10, kStart);
  EXPECT_EQ(pace.due(), kStart);
  for (int i = 0; i < 1000; ++i) {
    const auto began = pace.due();
    pace.took(began, began + 10ms, 2ms);
    EXPECT_EQ(pace.due(), began + 25ms);
  }
}

TEST(Pace, StretchesTheIntervalToTheShare) {
  Pace pace(25ms, 0.10, kStart);
  Clock::duration spent{};
  for (int i = 0; i < 1000; ++i) {
    const auto began = pace.due();
    pace.took(began, began + 10ms, 5ms);
    spent += 5ms;
  }
  // 5 s at a tenth of the time, but for the 100 ms that the bucket held at the start.
  EXPECT_EQ(spent, 5s);
  EXPECT_NEAR(std::chrono::duration<double>(pace.due() - kStart).count(), 49.0, 0.05);
}

TEST(Pace, PaysALongPauseBackOnceAndThenGoesOn) {
  Pace pace(25ms, 0.10, kStart);
  pace.took(kStart, kStart + 600ms, 500ms);  // a bucket of 100 ms
  EXPECT_EQ(pace.due(), kStart + 600ms + 4s);
  const auto began = pace.due();
  pace.took(began, began + 3ms, 2ms);
  EXPECT_EQ(pace.due(), began + 25ms);
}

TEST(Pace, DoesNotCatchUpWhatItWasLate) {
  Pace pace(25ms, 1.0, kStart);
  pace.took(kStart, kStart + 1s, 1ms);
  EXPECT_EQ(pace.due(), kStart + 1s);
}

TEST(Pace, WaitsAfterAFailure) {
  Pace pace(25ms, 0.10, kStart);
  pace.postpone(kStart + 1s);
  EXPECT_EQ(pace.due(), kStart + 1s);
  pace.postpone(kStart);
  EXPECT_EQ(pace.due(), kStart + 1s);
}

}  // namespace
}  // namespace mhv::checkpoint
