// The system calls of filling pages on demand, each with its errno turned into a decision.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/units.h"
#include "guest/tracker_sys.h"

namespace mhv::guest::sys {

// Accesses to pages that are not there wait from now on; written pages are tracked as before. Where a page is, nothing changes.
void uffd_register_missing(int uffd, HostVirt start, std::uint64_t bytes);

// Ends that, and wakes who waits. True: written bits are as they were; the range must not have been written during this call.
// False: every page that is there counts as written.
//
// Registering again with fewer modes is ignored by the kernel, and unregistering clears every written bit, page by page. Shared
// memory has a third mode, and going through it leaves the bits alone (Linux 6.18: 4 us, against 50 ms a GiB).
bool uffd_end_missing(int uffd, HostVirt start, std::uint64_t bytes, bool shared);

enum class Filled {
  kDone,   // all of it; who waited goes on
  kThere,  // the first page was there already, and who waited for it goes on; or that memory is gone
};
// Copies whole pages to where there are none, each atomically. `clean`: they count as not written. Stops before the first page that
// is there, and returns in `bytes` how much it copied. Throws kGone, kNoSpace when the host has no memory.
Filled uffd_copy(int uffd, HostVirt to, std::span<const std::byte> from, bool clean, std::uint64_t* bytes);
// Whoever waits in the range looks again: at what is there by now, or as a new fault.
void uffd_wake(int uffd, HostVirt start, std::uint64_t bytes);
// Faults that nobody has read yet, at most 64; none: empty, without waiting.
void uffd_read_faults(int uffd, std::vector<HostVirt>& out);
// Until there are faults to read, or `wake_fd` is readable, or the time is over (-1: never).
void wait_for_fault(int uffd, int wake_fd, int timeout_ms);

struct FileRange {
  std::uint64_t offset = 0, bytes = 0;
};
// What of [offset, offset + bytes) is in the file, ascending; also what is swapped out.
std::vector<FileRange> data_of(int file, std::uint64_t offset, std::uint64_t bytes);
void punch(int file, std::uint64_t offset, std::uint64_t bytes);

}  // namespace mhv::guest::sys
