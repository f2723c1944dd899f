#include "introspection/modules.h"

#include <algorithm>

namespace mhv::introspection {
namespace {

constexpr std::size_t kModuleNameBytes = 56;  // MODULE_NAME_LEN on x86-64
constexpr std::size_t kModulePartsMax = 64;

std::string_view state_name(std::uint32_t state) {
  constexpr std::array<std::string_view, 4> kNames{"live", "loading", "unloading", "unformed"};
  return state < kNames.size() ? kNames[state] : "unknown";
}

}  // namespace

bool Module::holds(GuestVirt address) const {
  return std::ranges::any_of(parts, [&](const Part& part) { return address.value - part.at.value < part.bytes; });
}

// Linux has an array of parts since 6.4, and two of them before.
Modules::Modules(const Kernel& kernel)
    : kernel_(kernel),
      head_(kernel.symbol("modules")),
      links_(kernel.offset("module", "list")),
      name_(kernel.offset("module", "name")),
      state_(kernel.offset("module", "state")) {
  const Btf& types = kernel.types();
  const auto parts = types.field("module", "mem");
  const auto one = types.find("module_memory");
  if (!parts || !one) {
    for (const std::string layout : {"core_layout", "init_layout"}) {
      parts_.push_back({kernel.offset("module", layout + ".base"), kernel.offset("module", layout + ".size")});
    }
    return;
  }
  const std::uint32_t base = kernel.offset("module_memory", "base"), size = kernel.offset("module_memory", "size");
  const std::uint64_t bytes = std::max<std::uint64_t>(types.size_of(*one), 1), count = types.size_of(parts->type) / bytes;
  for (std::uint32_t i = 0; i < std::min<std::uint64_t>(count, kModulePartsMax); ++i) {
    const std::uint32_t at = parts->offset + i * static_cast<std::uint32_t>(bytes);
    parts_.push_back({at + base, at + size});
  }
}

Module Modules::read(Walk& walk, GuestVirt module) const {
  Module out;
  out.name = walk.text(module + name_, kModuleNameBytes);
  out.state = state_name(walk.get<std::uint32_t>(module + state_));
  out.structure = module;
  for (const Where& where : parts_) {
    const Module::Part part{walk.get<GuestVirt>(module + where.at), walk.get<std::uint32_t>(module + where.bytes)};
    out.bytes += part.bytes;
    out.parts.push_back(part);
  }
  if (!out.parts.empty()) out.at = out.parts.front().at;
  return out;
}

std::vector<Module> Modules::list() const {
  Walk walk(kernel_);
  return walk.again("list of modules", [&] {
    std::vector<Module> out;
    walk.list(head_, [&](GuestVirt links) { out.push_back(read(walk, {links.value - links_})); });
    return out;
  });
}

}  // namespace mhv::introspection
