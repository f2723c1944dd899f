#include "base/background.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>

#include <stdexcept>

namespace mhv {
namespace {

TEST(Background, WorkIsDoneWhenRunReturnsAndAtALowPriority) {
  Background background;
  int nice = -1, policy = -1;
  background.run([&] {
    nice = ::getpriority(PRIO_PROCESS, 0);
    policy = ::sched_getscheduler(0);
  });
  EXPECT_GT(nice, ::getpriority(PRIO_PROCESS, 0));
  EXPECT_EQ(policy, SCHED_BATCH);
}

TEST(Background, ThrowsWhatTheWorkThrowsAndGoesOn) {
  Background background;
  EXPECT_THROW(background.run([] { throw std::runtime_error("no"); }), std::runtime_error);
  int count = 0;
  for (int i = 0; i < 1000; ++i) background.run([&] { ++count; });
  EXPECT_EQ(count, 1000);
}

}  // namespace
}  // namespace mhv
