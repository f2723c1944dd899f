#include "checkpoint/run_state.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"

namespace mhv::checkpoint {
namespace {

TEST(RunState, AnEmptyFileMeansNothingIsKnown) {
  const Fd file = Fd::memory("state");
  const RunState state(file);
  EXPECT_EQ(state.phase(), RunState::Phase::kRunning);
  EXPECT_EQ(state.base(), "");
  EXPECT_EQ(state.current(), "");
}

TEST(RunState, GarbageCountsAsEmpty) {
  const Fd file = Fd::memory("state");
  const std::string garbage(8192, '\xff');
  pwrite_all(file.get(), std::as_bytes(std::span(garbage)), 0, "garbage");
  const RunState state(file);
  EXPECT_EQ(state.phase(), RunState::Phase::kRunning);
  EXPECT_EQ(state.base(), "");
}

TEST(RunState, SurvivesTheProcessThatWroteIt) {
  const Fd file = Fd::memory("state");
  const pid_t child = ::fork();
  if (child == 0) {
    RunState state(file);
    state.bind(42, 4242);
    state.set_base("one");
    state.begin_restore("two", true);
    ::_exit(0);  // no destructor runs, as after a kill
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  RunState state(file);
  state.bind(42, 4242);
  EXPECT_EQ(state.phase(), RunState::Phase::kRestoring);
  EXPECT_EQ(state.target(), "two");
  EXPECT_TRUE(state.runs_after_restore());
  EXPECT_EQ(state.base(), "one");
}

TEST(RunState, AnotherProcessOfQemuStartsFromNothing) {
  const Fd file = Fd::memory("state");
  RunState state(file);
  state.bind(42, 4242);
  state.set_base("one");
  state.set_phase(RunState::Phase::kStopped);
  state.bind(42, 4243);  // the pid came again, the start time did not
  EXPECT_EQ(state.base(), "");
  EXPECT_EQ(state.phase(), RunState::Phase::kRunning);
}

TEST(RunState, AFillUnderWaySurvivesButNotItsQemu) {
  const Fd file = Fd::memory("state");
  const pid_t child = ::fork();
  if (child == 0) {
    RunState state(file);
    state.bind(42, 4242);
    state.begin_fill("one");
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  RunState state(file);
  EXPECT_EQ(state.filling(), "one");
  state.bind(42, 4242);
  EXPECT_EQ(state.filling(), "one");
  state.end_fill();
  EXPECT_EQ(state.filling(), "");
  state.begin_fill("two");
  state.bind(42, 4243);
  EXPECT_EQ(state.filling(), "");
}

TEST(RunState, AForgottenBaseStaysTheCurrentCheckpoint) {
  const Fd file = Fd::memory("state");
  RunState state(file);
  state.set_base("one");
  state.forget_base();
  EXPECT_EQ(state.base(), "");
  EXPECT_EQ(state.current(), "one");
}

TEST(RunState, RefusesAnIdThatDoesNotFit) {
  const Fd file = Fd::memory("state");
  RunState state(file);
  EXPECT_THROW(state.set_base(std::string(64, 'x')), Error);
  EXPECT_EQ(state.base(), "");
}

}  // namespace
}  // namespace mhv::checkpoint
