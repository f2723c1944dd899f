// What is asked of one process or of all of them.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "introspection/processes.h"
#include "introspection/walk.h"

namespace mhv::introspection {

// Of one process. Where it never held together, which is also so when the process ended meanwhile, nothing was found.
template <typename T>
struct OfProcess {
  Process process;
  bool readable = true;
  std::vector<T> found;
};

// `look(walk, process)` returns a vector, or throws Torn. Throws kBusy, and kNotFound: there is no process `pid`.
template <typename Look>
auto each_process(const Kernel& kernel, const Processes& processes, std::optional<std::int32_t> pid, Look&& look) {
  Walk walk(kernel);
  using Found = decltype(look(walk, std::declval<const Process&>()));
  std::vector<OfProcess<typename Found::value_type>> out;
  for (Process& process : pid ? std::vector{processes.find(*pid)} : processes.list()) {
    auto found = walk.attempt([&] { return look(walk, process); });
    const bool readable = found.has_value();
    out.push_back({std::move(process), readable, readable ? std::move(*found) : Found()});
  }
  return out;
}

}  // namespace mhv::introspection
