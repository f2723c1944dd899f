#include "integrity/tasks.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace mhv::integrity {
namespace {

constexpr std::size_t kCommBytes = 16;
constexpr std::uint32_t kTaskBytesMax = 64 << 10;
constexpr std::size_t kQueueMax = 1u << 16;

}  // namespace

TaskLists::TaskLists(const Kernel& kernel)
    : radix_(kernel),
      first_(kernel.symbol("init_task")),
      numbers_(kernel.symbol("init_pid_ns")),
      queues_(kernel.symbol("runqueues")),
      offsets_(kernel.symbol("__per_cpu_offset")),
      lock_(kernel.symbol("tasklist_lock")),
      processors_(kernel.symbols().find("nr_cpu_ids")),
      tasks_(kernel.offset("task_struct", "tasks")),
      pid_(kernel.offset("task_struct", "pid")),
      tgid_(kernel.offset("task_struct", "tgid")),
      comm_(kernel.offset("task_struct", "comm")),
      exit_state_(kernel.offset("task_struct", "exit_state")),
      signal_(kernel.offset("task_struct", "signal")),
      thread_node_(kernel.offset("task_struct", "thread_node")),
      thread_head_(kernel.offset("signal_struct", "thread_head")),
      group_node_(kernel.offset("task_struct", "se.group_node")),
      pid_links_(kernel.offset("task_struct", "pid_links")),
      begin_(std::min({pid_, tgid_, comm_, exit_state_})),
      bytes_(std::max({pid_, tgid_, comm_, exit_state_}) + static_cast<std::uint32_t>(kCommBytes) - begin_),
      tree_(kernel.offset("pid_namespace", "idr.idr_rt")),
      pid_tasks_(kernel.offset("pid", "tasks")),
      current_(kernel.offset("rq", "curr")),
      idle_(kernel.offset("rq", "idle")),
      fair_(kernel.offset("rq", "cfs_tasks")),
      processor_(kernel.offset("rq", "cpu")) {
  if (bytes_ > kTaskBytesMax) {
    throw Error(Code::kUnsupported, "the guest's kernel says that a process takes more than 64 KiB: " + kernel.banner(),
                "its BTF was tampered with, or it is no Debian kernel");
  }
}

std::optional<Task> TaskLists::task(Reader& reader, GuestVirt at, bool must_live) const {
  Structure part;
  if (!part.read(reader, at + begin_, bytes_)) return std::nullopt;
  if (must_live && part.get<std::int32_t>(exit_state_ - begin_) != 0) return std::nullopt;
  Task out{at, part.get<std::int32_t>(pid_ - begin_), part.get<std::int32_t>(tgid_ - begin_), {}};
  for (const char c : part.get<std::array<char, kCommBytes>>(comm_ - begin_)) {
    if (c == '\0') break;
    out.name += c >= ' ' && c <= '~' ? c : '?';
  }
  return out;
}

bool TaskLists::add_threads(Reader& reader, GuestVirt process, std::vector<Task>& out) const {
  const GuestVirt signal{reader.word(process + signal_)};
  const auto threads = walk_list(reader, signal + thread_head_, kTasksMax - std::min(kTasksMax, out.size()));
  if (!threads) return false;
  for (const GuestVirt node : *threads) {
    const auto one = task(reader, {node.value - thread_node_}, false);
    if (!one) return false;
    out.push_back(*one);
  }
  return true;
}

std::optional<std::vector<Task>> TaskLists::listed(Reader& reader) const {
  const auto processes = walk_list(reader, first_ + tasks_, kTasksMax);
  if (!processes) return std::nullopt;
  std::vector<Task> out;
  for (const GuestVirt link : *processes) {
    if (out.size() >= kTasksMax || !add_threads(reader, {link.value - tasks_}, out)) return std::nullopt;
  }
  return out;
}

// A number that only a group or a session has still leads to no task.
std::optional<std::vector<Task>> TaskLists::numbered(Reader& reader) const {
  const auto numbers = radix_.entries(reader, numbers_ + tree_, kTasksMax);
  if (!numbers) return std::nullopt;
  std::vector<Task> out;
  for (const GuestVirt number : *numbers) {
    const auto link = reader.pointer(number + pid_tasks_);
    if (!link) return std::nullopt;
    if (link->value == 0) continue;
    const auto one = task(reader, {link->value - pid_links_}, false);
    if (!one) return std::nullopt;
    out.push_back(*one);
  }
  return out;
}

std::uint32_t TaskLists::processors(Reader& reader) const {
  return processors_ ? std::min(reader.get<std::uint32_t>(*processors_).value_or(1), kProcessorsMax) : 1;
}

GuestVirt TaskLists::queue(Reader& reader, std::uint32_t processor) const {
  return queues_ + reader.word(offsets_ + processor * sizeof(std::uint64_t));
}

// Queues are followed forwards only: that way they hold together while they change.
std::vector<Task> TaskLists::running(Reader& reader) const {
  std::vector<Task> out;
  const auto add = [&](GuestVirt at) {
    const auto one = task(reader, at, true);
    if (one && one->pid > 0) out.push_back(*one);
  };
  for (std::uint32_t i = 0, end = processors(reader); i < end; ++i) {
    const GuestVirt own = queue(reader, i);
    if (reader.get<std::uint32_t>(own + processor_) != i) continue;
    add({reader.word(own + current_)});
    const GuestVirt head = own + fair_;
    GuestVirt at{reader.word(head)};
    for (std::size_t n = 0; at != head && n < kQueueMax && at.value >= kKernelSpace; ++n, at = {reader.word(at)}) {
      add({at.value - group_node_});
    }
  }
  return out;
}

// Each has one from the start on, also one that is to come.
std::set<GuestVirt> TaskLists::idle(Reader& reader) const {
  std::set<GuestVirt> out;
  for (std::uint32_t i = 0, end = processors(reader); i < end; ++i) out.insert({reader.word(queue(reader, i) + idle_)});
  return out;
}

// struct qrwlock: its lowest byte is 0xff while somebody writes.
bool TaskLists::is_changing(Reader& reader) const { return reader.get<std::uint8_t>(lock_) == std::uint8_t{0xff}; }

}  // namespace mhv::integrity
