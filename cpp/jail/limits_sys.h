// How much memory, and how many threads and files, a layer may use: limits of its one process.
#pragma once

#include <cstdint>

#include "jail/options.h"

namespace mhv::jail {

// Of this process and what it starts; cannot be raised again. `mapped_bytes`: of the guest's memory, which it may map besides.
void set_limits(const Options& options, std::uint64_t mapped_bytes);

}  // namespace mhv::jail
