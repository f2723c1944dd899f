// How much of a processor a layer may use: so many percent of one over ten seconds, from the outside.
//
// Not by cgroup: a group (v2) that hands controllers down takes no process itself (the kernel's cgroup-v2.rst, "No Internal Process
// Constraint"), and systemd starts a unit again in the unit's own group; DelegateSubgroup=, which would help, came with systemd 254.
#pragma once

#include <chrono>
#include <cstdint>

namespace mhv::jail {

// Pure.
class CpuShare {
 public:
  using Clock = std::chrono::steady_clock;
  struct Verdict {
    bool stop = false;           // it has used more than its share, and stands still until the next look
    Clock::duration look_again;  // when it may have used it up; or when it goes on
  };

  // `processors`: how many it can use at once. `percent`: of one, > 0.
  CpuShare(std::uint32_t percent, unsigned processors, Clock::time_point now);
  // `used`: since it was started.
  Verdict look(std::chrono::nanoseconds used, Clock::time_point now);

 private:
  const double rate_;
  const unsigned processors_;
  const std::chrono::nanoseconds most_;
  std::chrono::nanoseconds left_, used_{};
  Clock::time_point looked_;
  bool stopped_ = false;
};

}  // namespace mhv::jail
