// A guest's RAM as blocks, laid end to end in one space of page numbers.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/units.h"

namespace mhv::guest {

inline constexpr std::size_t kRamBlocksMax = 256;
inline constexpr std::size_t kListingBytesMax = 1u << 20;

// One line of HMP `info ramblock`.
struct BlockListing {
  std::string name;
  std::uint64_t used_bytes = 0;
  std::uint64_t host_virt = 0;
  bool read_only = false;
  std::uint64_t page_bytes = 0;  // 4096, or the huge page size of hugetlb memory
};
// Throws kInvalid on anything but QEMU's table (7.2 to 10.x); at most 256 blocks, lengths page-aligned, no overlaps.
// Blocks in which nothing is used are left out.
std::vector<BlockListing> parse_ramblock_listing(std::string_view text);

// One mapping of /proc/PID/maps.
struct MapsEntry {
  std::uint64_t start = 0, end = 0, offset = 0;
  bool readable = false, writable = false, shared = false;
  std::string path;  // "/memfd:pc.ram (deleted)", "" for anonymous
};
// Throws kInvalid on anything but the kernel's format, or when mappings overlap or descend.
std::vector<MapsEntry> parse_maps(std::string_view text);

struct RamBlock {
  std::string name;
  HostVirt host;
  std::uint64_t bytes = 0;
  bool read_only = false;       // for the guest; device models may still write it
  bool shared = false;          // fd is the file behind a shared mapping; else /proc/PID/mem
  std::uint64_t fd_offset = 0;  // of a shared block; /proc/PID/mem is read at `host`
  int fd = -1;                  // owned by Ram
  PageNo first;                 // filled by Ram
};

// Thread-safe but for restore writes, which want the guest stopped.
class Ram {
 public:
  // `fds` are kept open as long as the Ram lives; RamBlock::fd is one of their numbers.
  Ram(std::vector<RamBlock> blocks, std::vector<Fd> fds);

  // The same memory, with descriptors of its own.
  Ram duplicate() const;

  std::span<const RamBlock> blocks() const { return blocks_; }
  std::uint32_t pages() const { return pages_; }
  std::uint64_t bytes() const { return std::uint64_t{pages_} * kPageSize; }
  const RamBlock& block_of(PageNo page) const;
  HostVirt host_of(PageNo page) const;
  // The block-wise parts of QEMU's address range, which lies inside one block.
  PageRange pages_of(HostVirt start, std::uint64_t bytes) const;

  // Reads without allocating holes of a shared file. The range may not cross a block. kGone when QEMU ended.
  void read(PageRange range, std::span<std::byte> out) const;
  // From a place in one of blocks().
  void read(const RamBlock& block, std::uint64_t offset, std::span<std::byte> out) const;
  // Whole pages. A shared block is written through its file, which the Tracker does not see: reset() it, or count the
  // pages written, afterwards.
  void write(PageNo page, std::span<const std::byte> data);

 private:
  const RamBlock& block_of_range(PageNo page, std::uint64_t bytes) const;
  std::vector<RamBlock> blocks_;
  std::vector<Fd> fds_;
  std::uint32_t pages_ = 0;
};

}  // namespace mhv::guest
