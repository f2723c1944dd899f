// What stays in the store: which checkpoints, and that their space is given back.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "checkpoint/convert.h"
#include "checkpoint/service.h"
#include "keep/policy.h"

namespace mhv::checkpoint {
namespace {

constexpr double kFrequentS = 0.1;
constexpr auto kThinEvery = std::chrono::seconds(1);
// What the compaction may read and write, so that epochs and guests have the disk.
constexpr double kCompactBytesPerS = 32 << 20;
constexpr auto kCompactPause = std::chrono::milliseconds(5);

}  // namespace

void CheckpointService::compact_soon() { next_compaction_ = Clock::now() + kCompactPause; }

// Most of such automatic checkpoints are dropped soon: they are stored quickly, and many at once are dropped for little more than one.
bool CheckpointService::frequent() const { return options_.checkpoint_interval_s() < kFrequentS; }

void CheckpointService::thin_out() {
  const Clock::time_point now = Clock::now();
  if (frequent() && now - thinned_ < kThinEvery) return;
  thinned_ = now;
  const auto policy = options_.checkpoint_keep_policy().empty() ? keep::Policy::newest(options_.checkpoint_keep())
                                                                : keep::Policy::parse(options_.checkpoint_keep_policy());
  const auto since_1970 = std::chrono::system_clock::now().time_since_epoch();
  std::vector<std::string> dropped =
      policy.dropped(store_->automatic(), std::chrono::duration_cast<std::chrono::nanoseconds>(since_1970).count());
  if (lineage_ && lineage_->base()) std::erase(dropped, *lineage_->base());  // the next one stands on it
  if (!dropped.empty()) remove(dropped);
}

void CheckpointService::remove(const std::vector<std::string>& ids) {
  std::vector<store::CheckpointInfo> infos;
  for (const std::string& id : ids) {
    infos.push_back(store_->get_without_xml(id));
    if (filler_ && filler_->checkpoint() == id) fill_first(no_progress);
    // The pages that the tracker does not report equal this one: its successor's pages would no longer be known.
    if (lineage_ && lineage_->base() == id) lineage_->lose();
  }
  background_.run([&] { store_->remove(ids); });
  for (const store::CheckpointInfo& info : infos) {
    if (disk_points_) disk_points_->release(info);
    spdlog::log(info.automatic ? spdlog::level::debug : spdlog::level::info, "guest {} ({}): checkpoint {} deleted", name_, guest_,
                info.id);
  }
  compact_soon();
  engine_.report_again();
}

// One step of giving space back, between epochs.
void CheckpointService::compact() {
  next_compaction_ = Clock::time_point::max();
  try {
    std::optional<std::uint64_t> bytes;
    background_.run([&] { bytes = store_->compact(); });
    if (!bytes) return;
    const std::chrono::duration<double> pause(static_cast<double>(*bytes) / kCompactBytesPerS);
    next_compaction_ = Clock::now() + kCompactPause + std::chrono::duration_cast<Clock::duration>(pause);
  } catch (const Error& error) {  // the next deletion tries again
    spdlog::warn("guest {} ({}): no space given back: {}", name_, guest_, error.what());
  }
}

protocol::Reply CheckpointService::verify(const protocol::Request& request) {
  const StageFn progress = engine_.control().progress_of(request.id());
  const store::CheckResult result =
      store_->check([&](std::uint64_t done, std::uint64_t total) { progress("reading the store", done, total); });
  protocol::Reply reply;
  *reply.mutable_verify() = to_protocol(result);
  return reply;
}

protocol::Reply CheckpointService::repair(const protocol::Request& request) {
  if (filler_) {
    throw Error(Code::kBusy, fmt::format("the memory of guest {} is still being filled from checkpoint {}", name_, filler_->checkpoint()),
                "try again when that is over: mhvctl status " + name_);
  }
  const StageFn progress = engine_.control().progress_of(request.id());
  const std::vector<store::CheckpointInfo> before = store_->list();
  const store::RepairResult result =
      store_->repair([&](std::uint64_t done, std::uint64_t total) { progress("reading the store", done, total); });
  for (const store::CheckpointInfo& info : before) {
    if (store_->contains(info.id)) continue;
    if (lineage_ && lineage_->base() == info.id) lineage_->lose();
    if (disk_points_) disk_points_->release(info);
    spdlog::warn("guest {} ({}): checkpoint {} was damaged and is dropped", name_, guest_, info.id);
  }
  engine_.report_again();
  protocol::Reply reply;
  *reply.mutable_repair() = to_protocol(result);
  return reply;
}

protocol::Reply CheckpointService::stat() {
  protocol::Reply reply;
  *reply.mutable_store_stat() = to_protocol(store_->stat());
  return reply;
}

protocol::Reply CheckpointService::compact_now(const protocol::Request& request) {
  const StageFn progress = engine_.control().progress_of(request.id());
  protocol::Reply reply;
  protocol::StoreCompactReply& out = *reply.mutable_store_compact();
  out.set_bytes_before(store_->bytes_on_disk());
  for (std::uint64_t done = 0; const auto bytes = store_->compact(true);) progress("compacting", done += *bytes, 0);
  out.set_bytes_after(store_->bytes_on_disk());
  engine_.report_again();
  return reply;
}

}  // namespace mhv::checkpoint
