// What integrity asks of a processor of the guest.
#pragma once

#include <cstdint>

namespace mhv::integrity {

// As they are at the moment of the check: the guest's own values, not those of its hypervisor.
struct Registers {
  std::uint64_t cr0 = 0, cr3 = 0, cr4 = 0;
  std::uint64_t efer = 0, lstar = 0;
  std::uint64_t idt_base = 0;
  std::uint32_t idt_limit = 0;
};

inline constexpr std::uint64_t kCr0WriteProtect = 1u << 16, kCr0Paging = 1u << 31;
inline constexpr std::uint64_t kCr4Umip = 1u << 11, kCr4FiveLevels = 1u << 12, kCr4Smep = 1u << 20, kCr4Smap = 1u << 21;
inline constexpr std::uint64_t kEferLongMode = 1u << 10, kEferNoExecute = 1u << 11;

}  // namespace mhv::integrity
