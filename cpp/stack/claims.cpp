#include "stack/claims.h"

#include <algorithm>
#include <array>

namespace mhv::stack {
namespace {

template <std::size_t N, typename Enum>
const char* nth(const std::array<const char*, N>& names, Enum value) {
  return names[static_cast<std::size_t>(value)];
}

}  // namespace

bool Claims::has(MemoryAccess access) const {
  return std::ranges::any_of(memory, [&](const MemoryClaim& claim) { return claim.access.contains(access); });
}

bool Claims::reads_ram() const {
  return std::ranges::any_of(memory, [](const MemoryClaim& claim) {
    return claim.range.kind == MemoryRange::Kind::kRam && claim.access.contains(MemoryAccess::kRead);
  });
}

const char* name_of(MemoryAccess access) { return nth(std::array{"read", "write", "trap-write", "trap-missing"}, access); }
const char* name_of(Action action) { return nth(std::array{"checkpoint", "pause", "hold", "release", "rollback", "stop"}, action); }
const char* name_of(VcpuClaim claim) { return nth(std::array{"none", "read", "pause", "set"}, claim); }
const char* name_of(NetworkClaim claim) { return nth(std::array{"none", "see", "hold", "drop", "inject"}, claim); }
const char* name_of(DiskClaim claim) { return nth(std::array{"none", "see", "delay"}, claim); }

std::string name_of(const MemoryRange& range) {
  if (range.kind == MemoryRange::Kind::kProcess) return "process " + range.process;
  return range.kind == MemoryRange::Kind::kRam ? "ram" : "kernel-text";
}

}  // namespace mhv::stack
