// In which order a guest needed its pages after it was restored: the next restore brings them in that order, before they are
// asked for (REAP, ASPLOS 2021). A hint: a wrong or stale one costs time and nothing else.
//
//   file `fault-order` beside the store:   "MHVORDR1"   u32 count   count x u32 page number      little endian
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/units.h"

namespace mhv::checkpoint {

inline constexpr std::size_t kFaultOrderMax = 65536;  // 256 MiB of pages

// Throws kCorrupt on anything but such a file. Pure.
std::vector<PageNo> parse_fault_order(std::span<const std::byte> bytes);
// None, when there is none or it cannot be used.
std::vector<PageNo> load_fault_order(const std::string& path) noexcept;
// At most kFaultOrderMax pages are kept. Logs what fails.
void save_fault_order(const std::string& path, std::span<const PageNo> pages) noexcept;

}  // namespace mhv::checkpoint
