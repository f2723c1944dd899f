#include "introspection/threads.h"

#include <bit>

namespace mhv::introspection {
namespace {

constexpr std::size_t kThreadNameBytes = 16;

// fs/proc/array.c. What a task sleeps in and what became of it are bits of one number.
char state_letter(std::uint32_t state) {
  constexpr std::string_view kLetters = "RSDTtXZP";
  constexpr std::uint32_t kReported = 0x7f, kIdle = 0x402;
  return state == kIdle ? 'I' : kLetters[static_cast<std::size_t>(std::bit_width(state & kReported))];
}

}  // namespace

Threads::Threads(const Kernel& kernel)
    : kernel_(kernel),
      processes_(kernel),
      signal_(kernel.offset("task_struct", "signal")),
      links_(kernel.offset("task_struct", "thread_node")),
      tid_(kernel.offset("task_struct", "pid")),
      tgid_(kernel.offset("task_struct", "tgid")),
      comm_(kernel.offset("task_struct", "comm")),
      state_(kernel.types().field("task_struct", "__state") ? kernel.offset("task_struct", "__state")  // since 5.14
                                                            : kernel.offset("task_struct", "state")),
      exit_state_(kernel.offset("task_struct", "exit_state")),
      head_(kernel.offset("signal_struct", "thread_head")) {}

std::vector<Thread> Threads::of(Walk& walk, const Process& process) const {
  std::vector<Thread> out;
  walk.list(walk.get<GuestVirt>(process.task + signal_) + head_, [&](GuestVirt links) {
    const GuestVirt task{links.value - links_};
    if (walk.get<std::int32_t>(task + tgid_) != process.pid) throw Torn();
    const auto state = walk.get<std::uint32_t>(task + state_) | walk.get<std::uint32_t>(task + exit_state_);
    out.push_back({walk.get<std::int32_t>(task + tid_), walk.text(task + comm_, kThreadNameBytes), state_letter(state), task});
  });
  return out;
}

std::vector<OfProcess<Thread>> Threads::list(std::optional<std::int32_t> pid) const {
  return each_process(kernel_, processes_, pid, [this](Walk& walk, const Process& process) { return of(walk, process); });
}

}  // namespace mhv::introspection
