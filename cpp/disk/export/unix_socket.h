#pragma once

#include <string>

#include "base/fd.h"

namespace mhv::disk {

// A unix socket that listens at `path`, for its owner alone. What stands there is replaced.
Fd listen_at(const std::string& path);

}  // namespace mhv::disk
