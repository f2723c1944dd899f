// Where a guest's processors find its RAM: QEMU's `info mtree -f`.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "guest/ram.h"

namespace mhv::guest {

inline constexpr std::size_t kMemoryTreeBytesMax = 16u << 20;

// A part of the guest's physical address space that is RAM, and which.
struct PhysicalPart {
  std::uint64_t start = 0, bytes = 0;  // guest-physical
  std::size_t block = 0;               // of Ram::blocks()
  std::uint64_t offset = 0;            // in that block
  friend bool operator==(const PhysicalPart&, const PhysicalPart&) = default;
};

// What the flat view of the address space "memory" (QEMU 7.2 to 10.x) shows of the writable blocks, by address, neighbours merged.
// Throws kInvalid when it names no RAM, overlaps, or goes beyond a block: QEMU may have been taken over.
std::vector<PhysicalPart> parse_memory_tree(std::string_view text, std::span<const RamBlock> blocks);

}  // namespace mhv::guest
