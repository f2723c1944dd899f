#include "jail/cpu_share.h"

#include <algorithm>

namespace mhv::jail {
namespace {

using namespace std::chrono_literals;
using std::chrono::nanoseconds;

constexpr nanoseconds kWindow = 10s;
constexpr nanoseconds kGoesOnWith = 10ms;
constexpr nanoseconds kLookAtMost = 10ms;  // no more often than that

nanoseconds times(nanoseconds time, double factor) {
  return nanoseconds(static_cast<std::int64_t>(static_cast<double>(time.count()) * factor));
}

}  // namespace

CpuShare::CpuShare(std::uint32_t percent, unsigned processors, Clock::time_point now)
    : rate_(percent / 100.0), processors_(std::max(processors, 1u)), most_(times(kWindow, rate_)), left_(most_), looked_(now) {}

CpuShare::Verdict CpuShare::look(nanoseconds used, Clock::time_point now) {
  left_ = std::min(most_, left_ + times(now - looked_, rate_)) - (used - used_);
  used_ = used;
  looked_ = now;
  stopped_ = left_ < (stopped_ ? kGoesOnWith : 0ns);
  if (stopped_) return {true, std::max(kLookAtMost, times(kGoesOnWith - left_, 1 / rate_))};
  return {false, std::max(kLookAtMost, left_ / processors_)};
}

}  // namespace mhv::jail
