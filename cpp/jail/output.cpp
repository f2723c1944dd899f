#include "jail/output.h"

#include <algorithm>
#include <utility>

namespace mhv::jail {

void Output::refill(Clock::time_point now) {
  const auto passed = std::chrono::duration_cast<std::chrono::milliseconds>(now - last_);
  const std::size_t more = static_cast<std::size_t>(std::clamp<std::int64_t>(passed.count(), 0, 60'000)) * kBytesPerSecond / 1000;
  if (more == 0) return;
  last_ = now;
  allowed_ = std::min(kBurstBytes, allowed_ + more);
}

void Output::add(std::string_view bytes, Clock::time_point now) {
  refill(now);
  for (const char c : bytes) {
    if (allowed_ == 0) {
      ++dropped_;
      continue;
    }
    --allowed_;
    if (c == '\n') {
      end_line();
    } else {
      line_ += c >= ' ' && c <= '~' ? c : '?';
      if (line_.size() == kLineMax) end_line();
    }
  }
}

void Output::end_line() {
  if (dropped_ > 0) print_("(" + std::to_string(std::exchange(dropped_, 0)) + " bytes too many were dropped)");
  if (!line_.empty()) print_(std::exchange(line_, {}));
}

void Output::finish() { end_line(); }

}  // namespace mhv::jail
