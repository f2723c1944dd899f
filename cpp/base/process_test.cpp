#include "base/process.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>

namespace mhv {
namespace {

TEST(ProcessStat, IsReadWhateverTheNameIs) {
  const std::string rest = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21\n";
  for (const char* name : {"7 (qemu)", "7 (a) b (c))", "7 ()"}) {
    const auto stat = parse_process_stat(name + rest);
    ASSERT_TRUE(stat) << name;
    EXPECT_EQ(stat->state, 'S') << name;
    EXPECT_EQ(stat->start_time, 4242u) << name;
  }
}

TEST(ProcessStat, RefusesAnythingElse) {
  for (const char* text : {"", "7", "7 (x)", "7 (x) ", "7 (x) S 1 2 3", "7 (x)S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20",
                           "7 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x 20",
                           "7 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 99999999999999999999999 20",
                           "7 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242"}) {
    EXPECT_FALSE(parse_process_stat(text)) << text;
  }
}

TEST(IdentifyProcess, NamesWhatLives) {
  const auto self = identify_process(::getpid());
  ASSERT_TRUE(self);
  EXPECT_EQ(self->pid, ::getpid());
  EXPECT_EQ(self, identify_process(::getpid()));
  EXPECT_FALSE(identify_process(0));
}

TEST(IdentifyProcess, WhatEndedIsNotThere) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_FALSE(identify_process(child)) << "a zombie";
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_FALSE(identify_process(child));
}

TEST(WatchProcess, TellsTheEnd) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::pause();
    ::_exit(0);
  }
  const auto id = identify_process(child);
  ASSERT_TRUE(id);
  const Fd watch = watch_process(*id);
  ASSERT_TRUE(watch);
  EXPECT_FALSE(watch_process({child, id->start_time + 1})) << "another process with its pid";
  pollfd polled{watch.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&polled, 1, 0), 0);
  ::kill(child, SIGKILL);
  EXPECT_EQ(::poll(&polled, 1, 60'000), 1);
  EXPECT_FALSE(watch_process(*id)) << "a zombie";
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
}

}  // namespace
}  // namespace mhv
