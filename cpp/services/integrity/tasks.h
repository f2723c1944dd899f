// The processes and threads of a guest, by each of the ways in which its kernel finds them. Who hides a process takes it off one.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "integrity/reader.h"
#include "integrity/trees.h"

namespace mhv::integrity {

inline constexpr std::size_t kTasksMax = 1u << 22;  // PID_MAX_LIMIT
inline constexpr std::uint32_t kProcessorsMax = 1024;

struct Task {
  GuestVirt at;
  std::int32_t pid = 0, tgid = 0;
  std::string name;
};

// Thread-safe. The Kernel outlives it.
class TaskLists {
 public:
  // Throws kUnsupported.
  explicit TaskLists(const Kernel& kernel);

  // The list of processes with their threads, as /proc shows them; nullopt: it does not hold together.
  std::optional<std::vector<Task>> listed(Reader& reader) const;
  // The table of process numbers. nullopt as above.
  std::optional<std::vector<Task>> numbered(Reader& reader) const;
  // What processors run or are to run; without what is just ending, which is on no list any more.
  std::vector<Task> running(Reader& reader) const;
  // Who the task at that place is; nullopt: nothing is there, or it has ended and `must_live`.
  std::optional<Task> task(Reader& reader, GuestVirt at, bool must_live) const;
  // What each processor does when it has nothing to do.
  std::set<GuestVirt> idle(Reader& reader) const;
  // The kernel is just changing the first two.
  bool is_changing(Reader& reader) const;

 private:
  std::uint32_t processors(Reader& reader) const;
  GuestVirt queue(Reader& reader, std::uint32_t processor) const;
  bool add_threads(Reader& reader, GuestVirt process, std::vector<Task>& out) const;

  RadixTree radix_;
  GuestVirt first_, numbers_, queues_, offsets_, lock_;
  std::optional<GuestVirt> processors_;
  std::uint32_t tasks_, pid_, tgid_, comm_, exit_state_, signal_, thread_node_, thread_head_, group_node_, pid_links_;
  std::uint32_t begin_, bytes_;  // of the part of a task that says who it is
  std::uint32_t tree_;           // in a pid_namespace
  std::uint32_t pid_tasks_;      // in a struct pid
  std::uint32_t current_, idle_, fair_, processor_;
};

}  // namespace mhv::integrity
