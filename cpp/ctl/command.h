// mhvctl's commands.
#pragma once

namespace mhv::ctl {

// Parses, asks mhvd, prints. Returns the exit status that --help documents.
int run(int argc, const char* const* argv);

}  // namespace mhv::ctl
