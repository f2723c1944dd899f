// The few words that every part of a journal speaks.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>

namespace mhv::disk {

inline constexpr std::size_t kBlockBytes = 4096;
// 64 TiB: what the tables are tried with; it also caps what a damaged file can make them allocate.
inline constexpr std::uint64_t kDiskBlocksMax = std::uint64_t{1} << 34;

using BlockNo = std::uint64_t;  // of the disk that the guest sees

// Where one version of a block is: in the base image, nowhere (it is zeros), or in a slot of the log. A slot is named by its
// distance from the log's beginning, in blocks; it never is below 2, since a segment begins with a descriptor.
struct Where {
  std::uint64_t value = 0;
  bool in_log() const { return value > 1; }
  friend auto operator<=>(Where, Where) = default;
};
inline constexpr Where kInBase{0};
inline constexpr Where kZeros{1};

// A mark's name: the UUID of the checkpoint that it belongs to.
struct MarkName {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  friend auto operator<=>(const MarkName&, const MarkName&) = default;
};

}  // namespace mhv::disk
