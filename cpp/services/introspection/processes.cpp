#include "introspection/processes.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "introspection/walk.h"

namespace mhv::introspection {
namespace {

constexpr int kWalks = 5;
constexpr std::size_t kCommandBytesMax = 4096;
constexpr std::size_t kCommandsBytesMax = 64u << 20;  // of all: a list may be made so that its structures overlap
constexpr std::size_t kNameBytes = 16;
constexpr std::uint32_t kTaskBytesMax = 64 << 10;

}  // namespace

Processes::Processes(const Kernel& kernel)
    : kernel_(kernel),
      first_(kernel.symbol("init_task")),
      tasks_(kernel.offset("task_struct", "tasks")),
      pid_(kernel.offset("task_struct", "tgid")),
      parent_(kernel.offset("task_struct", "real_parent")),
      comm_(kernel.offset("task_struct", "comm")),
      mm_(kernel.offset("task_struct", "mm")),
      begin_(std::min({tasks_, pid_, parent_, comm_, mm_})),
      bytes_(std::max({tasks_, pid_, parent_, comm_, mm_}) + static_cast<std::uint32_t>(sizeof(ListHead)) - begin_),
      arg_start_(kernel.offset("mm_struct", "arg_start")),
      arg_end_(kernel.offset("mm_struct", "arg_end")),
      pgd_(kernel.offset("mm_struct", "pgd")),
      mm_begin_(std::min({arg_start_, arg_end_, pgd_})),
      mm_bytes_(std::max({arg_start_, arg_end_, pgd_}) + static_cast<std::uint32_t>(sizeof(GuestVirt)) - mm_begin_) {
  if (const std::uint32_t most = std::max(bytes_, mm_bytes_); most > kTaskBytesMax) {
    throw Error(Code::kUnsupported,
                "the guest's kernel says that a process takes " + std::to_string(most) + " bytes and more: " + kernel.banner(),
                "its BTF was tampered with, or it is no Debian kernel");
  }
}

// One time through the list. Each process is one read of memory, its command a few more.
class Processes::Pass {
 public:
  Pass(const Processes& processes, bool commands)
      : p_(processes), commands_(commands), look_(p_.kernel_.space()), part_(p_.bytes_), mm_(p_.mm_bytes_) {}

  // nullopt: a link did not lead back, so the list was changed, or is no list.
  std::optional<std::vector<Process>> run() {
    std::vector<Process> out;
    const GuestVirt head = p_.first_ + p_.tasks_;
    if (!read(p_.first_)) return std::nullopt;
    for (GuestVirt at = head;;) {
      const auto links = field<ListHead>(p_.tasks_);
      if (!read({links.next.value - p_.tasks_}) || field<ListHead>(p_.tasks_).prev != at) return std::nullopt;
      at = links.next;
      if (at == head) break;
      if (out.size() == kProcessesMax) return std::nullopt;
      out.push_back(process({at.value - p_.tasks_}));
    }
    name_parents(out);
    return out;
  }

 private:
  bool read(GuestVirt task) { return look_.read(task + p_.begin_, part_); }

  // Of the task that was read last.
  template <typename T>
  T field(std::uint32_t offset) const {
    T value;
    std::memcpy(&value, part_.data() + (offset - p_.begin_), sizeof value);
    return value;
  }

  Process process(GuestVirt task) {
    static_assert(kNameBytes <= sizeof(ListHead));
    const auto name = field<std::array<char, kNameBytes>>(p_.comm_);
    const auto mm = field<GuestVirt>(p_.mm_);
    Process out;
    out.pid = field<std::int32_t>(p_.pid_);
    out.name.assign(name.begin(), std::find(name.begin(), name.end(), '\0'));
    out.kernel_thread = mm.value == 0;
    out.task = task;
    parents_.push_back(field<GuestVirt>(p_.parent_));
    if (commands_ && !out.kernel_thread) out.command = command_of(mm);
    return out;
  }

  // A parent may be a thread, which is in no list of processes. 0: nobody.
  void name_parents(std::vector<Process>& processes) {
    std::vector<std::pair<GuestVirt, std::int32_t>> pids;
    pids.reserve(processes.size());
    for (const Process& one : processes) pids.emplace_back(one.task, one.pid);
    std::ranges::sort(pids);
    for (std::size_t i = 0; i < processes.size(); ++i) {
      std::int32_t& pid = processes[i].parent;
      const auto known = std::ranges::lower_bound(pids, parents_[i], {}, &std::pair<GuestVirt, std::int32_t>::first);
      if (i != 0 && parents_[i] == parents_[i - 1]) {
        pid = processes[i - 1].parent;
      } else if (known != pids.end() && known->first == parents_[i]) {
        pid = known->second;
      } else if (!look_.read(parents_[i] + p_.pid_, std::as_writable_bytes(std::span(&pid, 1)))) {
        pid = 0;
      }
    }
  }

  // The process's own memory: it can have written anything there, and its pages may not be in RAM.
  std::string command_of(GuestVirt mm) {
    if (!look_.read(mm + p_.mm_begin_, mm_)) return {};
    const auto pointer = [&](std::uint32_t offset) {
      GuestVirt value;
      std::memcpy(&value, mm_.data() + (offset - p_.mm_begin_), sizeof value);
      return value;
    };
    const GuestVirt start = pointer(p_.arg_start_), end = pointer(p_.arg_end_), root = pointer(p_.pgd_);
    if (end <= start) return {};
    if (commands_bytes_ > kCommandsBytesMax) return {};
    const auto phys = look_.translate(root);
    const auto space = phys ? std::optional(p_.kernel_.space_at(*phys)) : std::nullopt;
    std::string text(std::min<std::uint64_t>(end - start, kCommandBytesMax), '\0');
    if (!space || !space->read(start, std::as_writable_bytes(std::span(text)))) return {};
    while (text.ends_with('\0')) text.pop_back();
    std::ranges::replace(text, '\0', ' ');
    commands_bytes_ += text.size();
    return text;
  }

  const Processes& p_;
  const bool commands_;
  Look look_;
  std::vector<std::byte> part_, mm_;
  std::vector<GuestVirt> parents_;
  std::size_t commands_bytes_ = 0;
};

std::vector<Process> Processes::walk(bool commands) const {
  for (int tries = 0; tries < kWalks; ++tries) {
    if (auto found = Pass(*this, commands).run()) return std::move(*found);
  }
  throw Error(Code::kBusy, "the guest's list of processes does not hold together", "look at a checkpoint: its list stands still");
}

Process Processes::find(std::int32_t pid) const {
  for (Process& one : list()) {
    if (one.pid == pid) return std::move(one);
  }
  throw Error(Code::kNotFound, "the guest has no process " + std::to_string(pid), "`introspect processes` lists those that it has");
}

}  // namespace mhv::introspection
