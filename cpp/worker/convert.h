// Between the store's and the protocol's words for the same things.
#pragma once

#include "checkpoint/live_guest.h"
#include "guest/missing.h"
#include "mhv.pb.h"
#include "store/store.h"

namespace mhv::worker {

protocol::VerifyReport to_protocol(const store::CheckResult& result);
protocol::RepairReport to_protocol(const store::RepairResult& result);
protocol::StoreStatReply to_protocol(const store::StoreStat& stat);
protocol::Checkpoint to_protocol(const store::CheckpointInfo& info, const std::string& guest, const std::string& current);

// Takes the descriptors out of `fds`. Throws kInvalid for positions that are not there or taken twice.
std::unique_ptr<checkpoint::LiveGuest> to_live_guest(const protocol::WorkerGuestUp& up, std::vector<Fd> fds);
// The same memory, once more; needs no monitor. Descriptors of its own.
guest::MissingPages to_missing_pages(const protocol::WorkerGuestUp& up, const std::vector<Fd>& fds);

}  // namespace mhv::worker
