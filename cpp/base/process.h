// Which process: a pid alone may be another one's by the next look.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/fd.h"

namespace mhv {

// Names one process for ever: the pid, and field 22 of /proc/PID/stat (clock ticks since the host's boot).
struct ProcessId {
  std::int32_t pid = 0;
  std::uint64_t start_time = 0;
  friend bool operator==(const ProcessId&, const ProcessId&) = default;
};

struct ProcessStat {
  char state = 0;
  std::uint64_t start_time = 0;
};

// The text of /proc/PID/stat, whatever the command's name holds; nullopt: not such a text. Pure.
std::optional<ProcessStat> parse_process_stat(std::string_view text);

// nullopt: no such process, or it has ended and its parent has not noticed yet.
std::optional<ProcessId> identify_process(std::int32_t pid);

// A descriptor that can be read once the process has ended; none when it has already.
Fd watch_process(const ProcessId& process);

}  // namespace mhv
