// A guest as mhvd hands it over.
#pragma once

#include <memory>
#include <vector>

#include "guest/live_guest.h"
#include "guest/missing.h"
#include "mhv.pb.h"

namespace mhv::worker {

// Takes the descriptors out of `fds`. Throws kInvalid for positions that are not there or taken twice.
std::unique_ptr<guest::LiveGuest> to_live_guest(const protocol::WorkerGuestUp& up, std::vector<Fd> fds);
// The same memory, once more; needs no monitor. Descriptors of its own.
guest::MissingPages to_missing_pages(const protocol::WorkerGuestUp& up, const std::vector<Fd>& fds);

}  // namespace mhv::worker
