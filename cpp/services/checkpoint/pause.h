// The time in which the guest does not run.
#pragma once

#include <chrono>

#include "checkpoint/run_state.h"
#include "guest/machine.h"

namespace mhv::checkpoint {

// Stops a running guest; resumes it at the latest when the scope ends, also by an exception. A guest that somebody else
// had paused stays paused. The run state says `stopped` from before the stop until after the resume, so a new worker
// resumes the guest when this process dies in between.
class Pause {
 public:
  Pause(guest::Machine& machine, RunState& state);
  ~Pause();
  Pause(const Pause&) = delete;
  Pause& operator=(const Pause&) = delete;

  void resume();
  // The scope no longer resumes: the guest is not fit to run.
  void keep_stopped() { stopped_ = false; }
  // The guest stands still because of this scope.
  bool stopped() const { return stopped_; }
  std::uint64_t microseconds() const;

 private:
  guest::Machine& machine_;
  RunState& state_;
  bool stopped_ = false;
  std::chrono::steady_clock::time_point from_;
  std::chrono::steady_clock::time_point to_;
};

}  // namespace mhv::checkpoint
