// Descriptors given to QEMU: its fd sets.
#pragma once

#include <string>

#include "base/fd.h"
#include "guest/qmp.h"

namespace mhv::guest {

struct GivenFd {
  int set = -1;     // opened as fdset_path(set)
  int number = -1;  // the descriptor's number in QEMU
};

// `opaque` marks it, for remove_fdsets(). Throws as Qmp::call().
GivenFd give_fd(Qmp& qmp, const Fd& fd, const char* opaque);
std::string fdset_path(int set);
// All sets with that mark, also what a former engine gave.
void remove_fdsets(Qmp& qmp, const char* opaque);

}  // namespace mhv::guest
