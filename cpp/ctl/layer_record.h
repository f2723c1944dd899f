// A recording for those who write layers: some checkpoints of a guest, as a copy of their store (replay/replay.h).
#pragma once

#include <cstdint>
#include <string>

#include "ctl/session.h"

namespace mhv::ctl {

struct RecordOptions {
  std::string guest;      // unknown to mhvd, which it is again in the end
  std::string recording;  // the folder that is made
  std::uint32_t epochs = 10;
  double every_s = 1;
  std::string state_dir = "/var/lib/nova-mhv";  // mhvd's
};

// On the guest's host, as root. Throws kExists: the recording is there already, or the guest is known to mhvd; kPermission; and
// what a checkpoint may.
void record(Session& session, const RecordOptions& options);

}  // namespace mhv::ctl
