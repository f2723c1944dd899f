// What a layer prints, as lines of the log: a stranger's bytes.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>

namespace mhv::jail {

inline constexpr std::size_t kLineMax = 1000;
inline constexpr std::size_t kBurstBytes = 256 << 10;
inline constexpr std::size_t kBytesPerSecond = 16 << 10;

// Cuts into lines, replaces what is not printable ASCII by '?', and drops what comes faster than the log should grow, saying how much.
class Output {
 public:
  using Clock = std::chrono::steady_clock;
  using Print = std::function<void(const std::string& line)>;
  Output(Print print, Clock::time_point now) : print_(std::move(print)), last_(now) {}

  void add(std::string_view bytes, Clock::time_point now);
  void finish();

 private:
  void end_line();
  void refill(Clock::time_point now);

  Print print_;
  Clock::time_point last_;
  std::string line_;
  std::size_t allowed_ = kBurstBytes;
  std::size_t dropped_ = 0;
};

}  // namespace mhv::jail
