#include "introspection/syscalls.h"

#include <fmt/format.h>

#include <algorithm>

#include "introspection/modules.h"

namespace mhv::introspection {
namespace {

constexpr std::size_t kSyscallsMax = 1024;

// The next symbol ends the table, and what fills the space up to it is zero.
std::vector<GuestVirt> read_table(const Kernel& kernel) {
  const GuestVirt begin = kernel.symbol("sys_call_table");
  const auto next = kernel.symbols().after(begin);
  const std::uint64_t bytes = next ? next->at - begin : kSyscallsMax * sizeof(GuestVirt);
  std::vector<GuestVirt> table(std::min<std::uint64_t>(bytes / sizeof(GuestVirt), kSyscallsMax));
  Walk walk(kernel);
  walk.again("table of system calls", [&] {
    walk.read(begin, std::as_writable_bytes(std::span(table)));
    return true;
  });
  while (!table.empty() && table.back().value == 0) table.pop_back();
  return table;
}

std::string name_of(GuestVirt at, const Kernel& kernel, GuestVirt end_of_text, const std::vector<Module>& modules) {
  const auto module = std::ranges::find_if(modules, [&](const Module& one) { return one.holds(at); });
  if (module != modules.end()) return fmt::format("[{}]", module->name);
  const auto symbol = kernel.symbols().before(at);
  if (!symbol || at >= end_of_text) return {};
  return symbol->at == at ? std::string(symbol->name) : fmt::format("{}+{:#x}", symbol->name, at - symbol->at);
}

}  // namespace

std::vector<Syscall> list_syscalls(const Kernel& kernel) {
  const std::vector<Module> modules = Modules(kernel).list();
  const GuestVirt end_of_text = kernel.symbol("_etext");
  std::vector<Syscall> out;
  for (const GuestVirt at : read_table(kernel)) {
    out.push_back({static_cast<unsigned>(out.size()), at, name_of(at, kernel, end_of_text, modules)});
  }
  return out;
}

}  // namespace mhv::introspection
