// The threads of a guest's processes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "introspection/each_process.h"

namespace mhv::introspection {

struct Thread {
  std::int32_t tid = 0;
  std::string name;
  char state = '?';  // as ps says it: R, S, D, T, t, X, Z, P or I
  GuestVirt task;    // its task_struct
};

// Thread-safe. The Kernel outlives it.
class Threads {
 public:
  // Throws kUnsupported.
  explicit Threads(const Kernel& kernel);

  // Of the process `pid`, or of all. Throws kBusy, kNotFound.
  std::vector<OfProcess<Thread>> list(std::optional<std::int32_t> pid) const;

 private:
  std::vector<Thread> of(Walk& walk, const Process& process) const;

  const Kernel& kernel_;
  Processes processes_;
  std::uint32_t signal_, links_, tid_, tgid_, comm_, state_, exit_state_;  // in a task_struct
  std::uint32_t head_;                                                     // in a signal_struct
};

}  // namespace mhv::introspection
