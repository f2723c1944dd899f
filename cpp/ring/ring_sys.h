// The kernel's part of a channel: memory that keeps its size, and a socket to sleep at.
#pragma once

#include <boost/interprocess/mapped_region.hpp>
#include <chrono>
#include <cstddef>
#include <utility>

#include "base/fd.h"

namespace mhv::ring {

// A memory file of that size, which nobody can change any more.
Fd make_sealed_memory(std::size_t bytes);
bool is_sealed(const Fd& memory);
// Throws kCorrupt: the file is smaller.
boost::interprocess::mapped_region map_shared(const Fd& memory, std::size_t bytes);

// Neither of these ever blocks.
std::pair<Fd, Fd> make_wakes();
void wake(const Fd& peer);
// False: the peer ended.
bool take_wakes(const Fd& mine);

// Until `mine` can be read, or `deadline`, or a signal.
void sleep_until(const Fd& mine, std::chrono::steady_clock::time_point deadline);

}  // namespace mhv::ring
