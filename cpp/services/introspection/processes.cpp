#include "introspection/processes.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace mhv::introspection {
namespace {

constexpr int kWalks = 5;
constexpr std::size_t kCommandBytesMax = 4096;
constexpr std::size_t kNameBytes = 16;

struct ListHead {
  GuestVirt next, prev;
};
static_assert(sizeof(ListHead) == 16);

}  // namespace

Processes::Processes(const Kernel& kernel)
    : kernel_(kernel),
      first_(kernel.symbol("init_task")),
      tasks_(kernel.offset("task_struct", "tasks")),
      pid_(kernel.offset("task_struct", "tgid")),
      parent_(kernel.offset("task_struct", "real_parent")),
      comm_(kernel.offset("task_struct", "comm")),
      mm_(kernel.offset("task_struct", "mm")),
      arg_start_(kernel.offset("mm_struct", "arg_start")),
      arg_end_(kernel.offset("mm_struct", "arg_end")),
      pgd_(kernel.offset("mm_struct", "pgd")) {}

std::vector<Process> Processes::list() const {
  for (int tries = 0; tries < kWalks; ++tries) {
    if (auto found = walk()) return std::move(*found);
  }
  throw Error(Code::kBusy, "the guest's list of processes does not hold together", "look at a checkpoint: its list stands still");
}

// nullopt: a link did not lead back, so the list was changed, or is no list.
std::optional<std::vector<Process>> Processes::walk() const {
  std::vector<Process> out;
  const GuestVirt head = first_ + tasks_;
  GuestVirt at = head;
  for (;;) {
    const auto links = kernel_.space().read_as<ListHead>(at);
    if (!links) return std::nullopt;
    const auto next = kernel_.space().read_as<ListHead>(links->next);
    if (!next || next->prev != at) return std::nullopt;
    at = links->next;
    if (at == head) return out;
    if (out.size() == kProcessesMax) return std::nullopt;
    auto process = read({at.value - tasks_});
    if (!process) return std::nullopt;
    out.push_back(std::move(*process));
  }
}

std::optional<Process> Processes::read(GuestVirt task) const {
  const AddressSpace& space = kernel_.space();
  const auto pid = space.read_as<std::int32_t>(task + pid_);
  const auto parent = space.read_as<GuestVirt>(task + parent_);
  const auto mm = space.read_as<GuestVirt>(task + mm_);
  std::array<char, kNameBytes> name{};
  if (!pid || !parent || !mm || !space.read(task + comm_, std::as_writable_bytes(std::span(name)))) return std::nullopt;
  const auto parent_pid = space.read_as<std::int32_t>(*parent + pid_);
  if (!parent_pid) return std::nullopt;
  Process out;
  out.pid = *pid;
  out.parent = *parent_pid;
  out.name.assign(name.begin(), std::find(name.begin(), name.end(), '\0'));
  out.kernel_thread = mm->value == 0;
  if (!out.kernel_thread) out.command = command_of(*mm);
  out.task = task;
  return out;
}

// The process's own memory: it can have written anything there, and its pages may not be in RAM.
std::string Processes::command_of(GuestVirt mm) const {
  const auto start = kernel_.space().read_as<GuestVirt>(mm + arg_start_), end = kernel_.space().read_as<GuestVirt>(mm + arg_end_);
  const auto root = kernel_.space().read_as<GuestVirt>(mm + pgd_);
  if (!start || !end || !root || *end <= *start) return {};
  const auto space = kernel_.space_of(*root);
  std::string text(std::min<std::uint64_t>(*end - *start, kCommandBytesMax), '\0');
  if (!space || !space->read(*start, std::as_writable_bytes(std::span(text)))) return {};
  while (text.ends_with('\0')) text.pop_back();
  std::ranges::replace(text, '\0', ' ');
  return text;
}

}  // namespace mhv::introspection
