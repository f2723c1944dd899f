// Where a PC that is not there to be asked has its RAM.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/units.h"
#include "guest/stream.h"

namespace mhv::guest {

// A part of the guest's physical address space that is RAM, and which pages of the guest it is.
struct RamPart {
  std::uint64_t start = 0, bytes = 0;  // guest-physical
  PageNo first;
  friend bool operator==(const RamPart&, const RamPart&) = default;
};

// As QEMU arranges it (hw/i386/pc_piix.c, pc_q35.c) where nobody tells it otherwise (max-ram-below-4g): what does not fit below the
// devices' addresses is above 4 GiB. `blocks`: all of the guest's, of whole pages; devices' are left out. Throws kUnsupported: another
// machine, memory that was plugged in, or more than is always arranged so.
std::vector<RamPart> pc_ram(const std::string& machine, std::span<const StreamBlock> blocks);

}  // namespace mhv::guest
