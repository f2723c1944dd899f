// The store's words in the protocol's.
#pragma once

#include "mhv.pb.h"
#include "store/store.h"

namespace mhv::checkpoint {

protocol::VerifyReport to_protocol(const store::CheckResult& result);
protocol::RepairReport to_protocol(const store::RepairResult& result);
protocol::StoreStatReply to_protocol(const store::StoreStat& stat);
// `current`: the checkpoint that the guest runs on top of.
protocol::Checkpoint to_protocol(const store::CheckpointInfo& info, const std::string& guest, const std::string& current);

}  // namespace mhv::checkpoint
