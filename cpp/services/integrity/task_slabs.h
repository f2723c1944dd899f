// Processes as the allocator of a guest's kernel knows them: one that no list names any more still lies in the memory for processes.
//
// A walk over the kernel's struct pages finds the slabs of the cache task_struct, some pages at each check. Each object in them is one of
//   free       the link to the next free one stands in it; SLUB links within a slab only
//   known      on the list of processes, or in the table of their numbers
//   new        zeroed or not yet written: it has no signal handlers, or still the link of a free one
//   a copy     of its parent, from dup_task_struct() to sched_fork(): it has the number of its parent, which runs, and is known
//   coming     TASK_NEW from sched_fork() on, until wake_up_new_task(), and it is known before that
//   ending     exit_state is set before it goes off the lists, and stays; a fork that failed is TASK_DEAD
//   idle       a processor's own; its number is 0
//   hidden     none of these
// Each holds at any moment, so also for a guest that is stopped there. What is seen across a change, of one that runs, is not told: it
// has to be hidden at a later check too, at the same place and with the same number.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "integrity/tasks.h"

namespace mhv::integrity {

// Not thread-safe. The Kernel outlives it.
class TaskSlabs {
 public:
  // Throws kUnsupported.
  explicit TaskSlabs(const Kernel& kernel);

  // Once a check: the next part of memory, if the last was looked at.
  void advance(Reader& reader);

  // Those that are hidden, and were at a check before. Each is looked at anew until it is gone.
  // `listed`: those of the list of processes. `is_known`: on it, or in the table.
  std::vector<Task> hidden(Reader& reader, const TaskLists& lists, std::span<const Task> listed,
                           const std::function<bool(GuestVirt)>& is_known);

 private:
  struct Object {
    GuestVirt at, slab;
    std::uint32_t in_slab;
    GuestVirt page;  // its struct
  };
  struct Suspect {
    Object object;
    std::int32_t pid;
  };
  void collect(Reader& reader, std::uint64_t frame, std::size_t frames);
  // What the kernel's lists say; sets that are seldom needed are made then.
  struct Known {
    const TaskLists& lists;
    std::span<const Task> listed;
    const std::function<bool(GuestVirt)>& has;
    std::optional<std::set<std::int32_t>> numbers = {};
    std::optional<std::set<GuestVirt>> idle = {};
  };
  bool is_free(Reader& reader, const Object& object) const;
  std::optional<Task> examine(Reader& reader, Known& known, const Object& object) const;

  GuestVirt pages_, direct_, cache_;
  std::uint64_t page_bytes_;
  std::optional<std::uint64_t> random_;                  // that links are mixed with
  std::uint32_t cache_at_, counters_at_, head_at_;       // in a struct page
  std::uint32_t bytes_ = 0, link_at_ = 0, padding_ = 0;  // of an object
  std::uint32_t state_, handlers_;                       // in a task_struct
  std::uint64_t next_ = 0;                               // page frame
  std::vector<Object> part_;
  std::map<GuestVirt, Suspect> suspects_, fresh_;  // of the checks before, and of this one
  bool looked_at_ = true;
};

}  // namespace mhv::integrity
