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
};

enum class Select {
  kWritten,       // there is an entry, without the wp bit
  kNotProtected,  // no wp bit, whether there is an entry or not; protecting makes page tables for all of the range
  kPresent,
  kPresentOrSwapped,  // a swap entry, a migration entry or a marker
};

// Repeats what the kernel asks to repeat: EINTR, and EAGAIN while QEMU is changing its mappings.
int ioctl_again(int fd, unsigned long request, void* argument);
// Of errno after a call on a userfaultfd: kGone when QEMU ended, kNoSpace when the host has no memory.
[[noreturn]] void throw_uffd(const char* what);

// kUnsupported when the kernel lacks a feature.
void uffd_handshake(int uffd);
void uffd_register(int uffd, HostVirt start, std::uint64_t bytes);
// A range that is not mapped or not registered any more is no error.
void uffd_unregister(int uffd, HostVirt start, std::uint64_t bytes);
void uffd_protect(int uffd, HostVirt start, std::uint64_t bytes);

// Ascending; with `protect`, what it reports as written is protected in the same step. Throws kUnsupported where the
// range is not registered for asynchronous write protection.
void pagemap_scan(int pagemap, HostVirt start, std::uint64_t bytes, Select select, bool protect, std::vector<Region>& out);
// Whether this host has swap space: without it, no page loses its page table entry but by being given back.
bool host_swaps();
// Whether the process behind the descriptor still has its memory.
bool pagemap_alive(int pagemap, HostVirt any);

}  // namespace mhv::guest::sys
