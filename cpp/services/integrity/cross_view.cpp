#include "integrity/cross_view.h"

#include <algorithm>
#include <functional>
#include <set>
#include <unordered_map>

#include "integrity/code_map.h"

namespace mhv::integrity {
namespace {

constexpr int kComparisons = 3;
constexpr std::size_t kHiddenMax = 64;

// nullopt: nothing can be said at the moment.
using Comparison = std::function<std::optional<std::vector<Finding>>(Reader&)>;

void repeat(const Kernel& kernel, const Comparison& compare, std::vector<Finding>& out) {
  std::vector<Finding> hidden;
  for (int i = 0; i < kComparisons; ++i) {
    Reader reader(kernel);
    auto now = compare(reader);
    if (!now || now->empty()) return;
    if (i != 0) {
      std::erase_if(*now, [&](const Finding& one) {
        return std::ranges::none_of(hidden,
                                    [&](const Finding& other) { return one.address == other.address && one.detail == other.detail; });
      });
    }
    hidden = std::move(*now);
  }
  out.insert(out.end(), hidden.begin(), hidden.end());
}

std::optional<std::vector<Finding>> compare_tasks(const TaskLists& lists, TaskSlabs* slabs, GuestVirt first, Reader& reader) {
  if (lists.is_changing(reader)) return std::nullopt;
  const auto listed = lists.listed(reader), numbered = lists.numbered(reader);
  std::vector<Finding> out;
  if (!listed || !numbered) {
    const char* const what = listed ? "table of process numbers" : "list of processes";
    out.push_back({"hidden_process", what, std::string("the kernel's ") + what + " does not hold together", first});
    return out;
  }
  constexpr unsigned kListed = 1, kNumbered = 2;
  std::unordered_map<std::uint64_t, unsigned> known;
  for (const Task& task : *listed) known[task.at.value] |= kListed;
  for (const Task& task : *numbered) known[task.at.value] |= kNumbered;
  const auto tell = [&](const Task& task, const char* detail) {
    if (out.size() < kHiddenMax) out.push_back({"hidden_process", std::to_string(task.pid) + " " + task.name, detail, task.at});
  };
  for (const Task& task : *numbered) {
    if ((known[task.at.value] & kListed) == 0) tell(task, "has a number, and is not on the list of processes");
  }
  for (const Task& task : *listed) {
    if ((known[task.at.value] & kNumbered) == 0) tell(task, "is on the list of processes, and its number is nobody's");
  }
  for (const Task& task : lists.running(reader)) {
    if (!known.contains(task.at.value)) tell(task, "runs, and is neither on the list of processes nor in the table of their numbers");
  }
  if (slabs == nullptr) return out;
  for (const Task& task : slabs->hidden(reader, lists, *listed, [&](GuestVirt at) { return known.contains(at.value); })) {
    tell(task, "is in the kernel's memory for processes, and neither on the list of processes nor in the table of their numbers");
  }
  return out;
}

std::optional<std::vector<Finding>> compare_modules(const ModuleLists& lists, GuestVirt head, Reader& reader) {
  if (lists.is_changing(reader)) return std::nullopt;
  const auto listed = lists.listed(reader);
  const auto in_sysfs = lists.in_sysfs(reader), in_tree = lists.in_tree(reader);
  std::vector<Finding> out;
  if (!listed) {
    out.push_back({"hidden_module", "list of modules", "the kernel's list of modules does not hold together", head});
    return out;
  }
  std::set<GuestVirt> known;
  for (const Module& module : *listed) known.insert(module.at);
  const auto tell = [&](GuestVirt module, const char* detail) {
    if (out.size() < kHiddenMax) out.push_back({"hidden_module", lists.name_of(reader, module), detail, module});
  };
  if (in_sysfs) {
    for (const GuestVirt module : std::set(in_sysfs->begin(), in_sysfs->end())) {
      if (!known.contains(module)) tell(module, "is in /sys/module, and not on the list of modules");
    }
    for (const Module& module : *listed) {
      if (module.settled && std::ranges::find(*in_sysfs, module.at) == in_sysfs->end())
        tell(module.at, "is on the list of modules, and not in /sys/module");
    }
  }
  if (in_tree) {
    for (const GuestVirt module : std::set(in_tree->begin(), in_tree->end())) {
      if (!known.contains(module)) tell(module, "its code is known to the kernel, and it is not on the list of modules");
    }
  }
  return out;
}

}  // namespace

void find_hidden_processes(const Kernel& kernel, const TaskLists& lists, TaskSlabs* slabs, std::vector<Finding>& out) {
  const GuestVirt first = kernel.symbol("init_task");
  repeat(
      kernel, [&](Reader& reader) { return compare_tasks(lists, slabs, first, reader); }, out);
}

void find_hidden_modules(const Kernel& kernel, const ModuleLists& lists, std::vector<Finding>& out) {
  const GuestVirt head = kernel.symbol("modules");
  repeat(
      kernel, [&](Reader& reader) { return compare_modules(lists, head, reader); }, out);
}

}  // namespace mhv::integrity
