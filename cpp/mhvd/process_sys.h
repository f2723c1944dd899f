// What mhvd does to itself before it serves: folders, user, one instance, signals.
#pragma once

#include <string>

#include "base/fd.h"
#include "mhvd/config.h"

namespace mhv::mhvd {

// Makes the folders. Started as root: they then belong to config.user, and this process becomes that user with its
// groups; "root", or a user that this host has not, stays root (the latter is logged).
void settle_in(const Config& config);

// Held as long as mhvd lives. Throws kBusy when another mhvd has the run folder.
Fd take_instance_lock(const std::string& path);

// Blocks SIGTERM and SIGINT in this thread and all that it starts later, and ignores SIGPIPE.
void block_signals();
int wait_for_signal();  // SIGTERM or SIGINT

}  // namespace mhv::mhvd
