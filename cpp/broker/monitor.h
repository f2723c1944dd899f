// Connecting to a monitor socket that QEMU made, for a process that may not.
#pragma once

#include <string>

#include "base/fd.h"

namespace mhv::broker {

// `path` must be a socket directly inside `folder` (no link, no sub-folder), and a QEMU must listen on it. Throws kInvalid (another
// place), kNotFound, kUnavailable (nobody listens) or kPermission (the listener is no QEMU).
Fd connect_monitor(const std::string& folder, const std::string& path);

}  // namespace mhv::broker
