// Distinct types for the numbers that must not be mixed up.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>

namespace mhv {

inline constexpr std::size_t kPageSize = 4096;
inline constexpr unsigned kPageShift = 12;

// An address in the QEMU process. Never dereferenced here: this process has other mappings there.
struct HostVirt {
  std::uint64_t value = 0;
  friend auto operator<=>(HostVirt, HostVirt) = default;
  friend HostVirt operator+(HostVirt a, std::uint64_t bytes) { return {a.value + bytes}; }
  friend std::uint64_t operator-(HostVirt a, HostVirt b) { return a.value - b.value; }
};

// A page of a guest: all its RAM blocks laid end to end in the order of the block list, counted in 4 KiB pages.
struct PageNo {
  std::uint32_t value = 0;
  friend auto operator<=>(PageNo, PageNo) = default;
};

// Pages [first, first + count).
struct PageRange {
  PageNo first;
  std::uint32_t count = 0;
  friend bool operator==(const PageRange&, const PageRange&) = default;
};

}  // namespace mhv
