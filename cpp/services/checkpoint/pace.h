// When the next automatic checkpoint is due: a feedback controller on what they cost the guest.
//
// The guest's owner says how often, and which share of the guest's time it may cost. Where both do not go together, the
// interval is stretched: a checkpoint comes later, none is left out.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace mhv::checkpoint {

// A bucket of time that may be spent fills at the rate of the share, up to what one second gives: a single long
// pause is paid back before the next one, and a quiet guest does not save up for a storm. Not thread-safe.
class Pace {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr Clock::time_point kNever = Clock::time_point::max();

  // None is ever due.
  Pace() = default;
  // `share` of the guest's time, above 0 and at most 1. The first one is due now.
  Pace(Clock::duration interval, double share, Clock::time_point now)
      : interval_(interval), share_(share), filled_at_(now), due_(now), budget_(full()) {}

  Clock::time_point due() const { return due_; }

  // A checkpoint cost the guest so much of its time.
  void took(Clock::time_point began, Clock::time_point ended, Clock::duration cost) {
    budget_ = std::min(full(), budget_ + scaled(ended - filled_at_, share_)) - cost;
    filled_at_ = ended;
    const Clock::time_point affordable = budget_ >= Clock::duration::zero() ? ended : ended + scaled(-budget_, 1 / share_);
    due_ = std::max({began + interval_, affordable, ended});
  }
  // It could not be taken: not again before `earliest`.
  void postpone(Clock::time_point earliest) { due_ = std::max(due_, earliest); }

 private:
  static Clock::duration scaled(Clock::duration time, double by) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(time) * by);
  }
  Clock::duration full() const { return scaled(std::chrono::seconds(1), share_); }

  Clock::duration interval_{};
  double share_ = 1;
  Clock::time_point filled_at_{};
  Clock::time_point due_ = kNever;
  Clock::duration budget_{};
};

}  // namespace mhv::checkpoint
