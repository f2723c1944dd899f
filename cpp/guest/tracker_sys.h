// The system calls of tracking, each with its errno turned into a decision.
#pragma once

#include <span>
#include <vector>

#include "base/units.h"

namespace mhv::guest::sys {

// A span of equal pages as PAGEMAP_SCAN reports it.
struct Region {
  HostVirt start;
  std::uint64_t bytes = 0;
  bool swapped = false;  // or a marker; told only of pages that are not present
};

enum class Select {
  kWritten,     // written pages; where a page table is there, its empty entries too
  kNotPresent,  // pages that no page table maps
};

// kUnsupported when the kernel lacks a feature.
void uffd_handshake(int uffd);
void uffd_register(int uffd, HostVirt start, std::uint64_t bytes);
// A range that is not mapped or not registered any more is no error.
void uffd_unregister(int uffd, HostVirt start, std::uint64_t bytes);
void uffd_protect(int uffd, HostVirt start, std::uint64_t bytes);

// Ascending; with `protect`, what it reports as written is protected in the same step. Throws kUnsupported where the
// range is not registered for asynchronous write protection.
void pagemap_scan(int pagemap, HostVirt start, std::uint64_t bytes, Select select, bool protect, std::vector<Region>& out);
// Whether the process behind the descriptor still has its memory.
bool pagemap_alive(int pagemap, HostVirt any);

}  // namespace mhv::guest::sys
