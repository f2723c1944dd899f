#include "checkpoint/service.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <thread>

#include "base/text.h"
#include "checkpoint/convert.h"
#include "checkpoint/disk_area.h"

namespace mhv::checkpoint {
namespace {

constexpr std::uint32_t kListMax = 1000;
constexpr std::size_t kNameMax = 255;
constexpr double kOverheadMaxPercent = 10;
// What the first write to a protected page costs the guest: fault_us of tests/bench/run checkpoint.
constexpr std::chrono::nanoseconds kFaultCost{3000};

std::unique_ptr<store::Store> open_store(const protocol::WorkerStart& start) {
  store::StoreOptions options;
  if (!start.store_key().empty()) options.key.emplace(start.store_key());
  options.refuse_plain = start.refuse_plain_store();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  for (;;) {
    try {
      auto store = store::Store::open(start.store_path(), options);
      if (options.key && !store->encrypted()) {
        spdlog::warn("guest {} ({}): its store is not encrypted, though there is a key: it is older, or somebody put it there",
                     start.name(), start.guest());
      }
      return store;
    } catch (const Error& error) {
      if (error.code() != Code::kBusy || std::chrono::steady_clock::now() > deadline) throw;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));  // the former worker is finishing
    }
  }
}

}  // namespace

CheckpointService::CheckpointService(engine::Engine& engine, const protocol::WorkerStart& start, const Fd& run_state)
    : engine_(engine),
      guest_(start.guest()),
      name_(start.name()),
      store_path_(start.store_path()),
      options_(start.options()),
      state_(run_state),
      store_(open_store(start)) {}

void CheckpointService::configure(const protocol::ServiceOptions& options) {
  options_ = options;
  if (disk_points_) disk_points_->want(options_.checkpoint_disks() != protocol::DISKS_NONE);
  start_pace();
}

// ---------------------------------------------------------------- control thread

bool CheckpointService::dispatch(const protocol::Request& request, std::vector<Fd>& fds) {
  using Kind = protocol::Request;
  switch (request.body_case()) {
    case Kind::kCheckpointList: list(request); return true;
    case Kind::kCheckpointShow: show(request); return true;
    case Kind::kCheckpointCreate: engine_.enqueue(request, [this, request] { return create(request); }); return true;
    case Kind::kCheckpointRestore: engine_.enqueue(request, [this, request] { return restore(request); }); return true;
    case Kind::kCheckpointVerify: engine_.enqueue(request, [this, request] { return verify(request); }); return true;
    case Kind::kStoreRepair: engine_.enqueue(request, [this, request] { return repair(request); }); return true;
    case Kind::kStoreStat: engine_.enqueue(request, [this] { return stat(); }); return true;
    case Kind::kStoreCompact: engine_.enqueue(request, [this, request] { return compact_now(request); }); return true;
    case Kind::kCheckpointDelete:
      engine_.enqueue(request, [this, id = request.checkpoint_delete().id()] {
        remove({id});
        protocol::Reply reply;
        reply.mutable_done();
        return reply;
      });
      return true;
    case Kind::kCheckpointExport:
    case Kind::kCheckpointExportDisk:
      if (fds.size() != 1) {
        engine_.control().fail(request.id(), Error(Code::kInvalid, "an export needs one open file beside it"));
        return true;
      }
      engine_.enqueue(request, [this, request, file = std::make_shared<Fd>(std::move(fds[0]))] { return export_to(request, *file); });
      return true;
    default: return false;
  }
}

void CheckpointService::list(const protocol::Request& request) {
  const protocol::CheckpointList& asked = request.checkpoint_list();
  const std::uint32_t limit = asked.limit() == 0 ? kListMax : std::min(asked.limit(), kListMax);
  const std::string current = state_.current();
  protocol::Reply reply;
  protocol::CheckpointListReply& out = *reply.mutable_checkpoint_list();
  try {
    std::vector<store::CheckpointInfo> found = store_->list(asked.marker(), std::size_t{limit} + 1);
    if (found.size() > limit) {
      out.set_more(true);
      found.pop_back();
    }
    for (const store::CheckpointInfo& info : found) *out.add_checkpoints() = to_protocol(info, guest_, current);
    engine_.control().reply(request.id(), std::move(reply));
  } catch (const Error& error) {
    engine_.control().fail(request.id(), error);
  }
}

void CheckpointService::show(const protocol::Request& request) {
  try {
    protocol::Reply reply;
    *reply.mutable_checkpoint()->mutable_checkpoint() =
        to_protocol(store_->get_without_xml(request.checkpoint_show().id()), guest_, state_.current());
    engine_.control().reply(request.id(), std::move(reply));
  } catch (const Error& error) {
    engine_.control().fail(request.id(), error);
  }
}

// ---------------------------------------------------------------- engine thread

void CheckpointService::guest_up(guest::LiveGuest& live, const protocol::WorkerGuestUp& up) {
  live_ = &live;
  lineage_ = std::make_unique<Lineage>(live.ram.pages(), live.written, state_, up.uffd_is_new());
  mark_ = std::make_unique<RestoreMark>(store_path_ + "/restoring", ProcessId{up.qemu_pid(), up.qemu_start_time()});
  finish_interrupted_work();
  disk_points_ = std::make_unique<DiskPoints>(live, *store_, options_.checkpoint_disks() != protocol::DISKS_NONE);
  checkpointer_ = std::make_unique<Checkpointer>(live, *store_, state_, *lineage_, *disk_points_, background_);
  const std::optional<store::CheckpointInfo> newest = store_->newest();
  epoch_ = newest ? newest->epoch : 0;
  start_pace();
  spdlog::info("guest {} ({}): its next checkpoint {}", name_, guest_,
               lineage_->base() ? "holds what was written since " + *lineage_->base() : "reads all of its memory");
  if (filler_) filler_->prefetch();
}

void CheckpointService::detach() {
  checkpointer_.reset();
  disk_points_.reset();
  mark_.reset();
  lineage_.reset();
  live_ = nullptr;
  memory_.reset();
  pace_ = {};
}

// The earlier first: what stays due for ever would keep the layers waiting for ever (worker/worker.cpp).
void CheckpointService::tick() {
  if (filler_) {
    on_fill_change();
  } else if (pace_.due() <= next_compaction_) {
    take_automatic_checkpoint();
  } else {
    compact();
  }
}

std::string CheckpointService::parent() const {
  const std::string current = lineage_->base().value_or(state_.current());
  if (store_->contains(current)) return store_->get_without_xml(current).blocks == blocks_of(live_->ram) ? current : "";
  std::string found;  // the last one that fits; the guest runs on top of none, so this is rare
  for (const store::CheckpointInfo& info : store_->list()) {
    if (info.blocks == blocks_of(live_->ram)) found = info.id;
  }
  return found;
}

store::CheckpointInfo CheckpointService::create(const std::string& name, bool automatic, const StageFn& progress) {
  engine_.require_live("checkpointed");
  engine_.refuse_while_held();
  if (state_.phase() == RunState::Phase::kRestoring) {
    throw Error(Code::kBusy, "a restore of " + state_.target() + " did not finish; the guest is stopped between two moments",
                "restore a checkpoint again, or restart the guest");
  }
  fill_first(progress);
  const bool runs = automatic || live_->machine.running();  // there is no automatic one of a guest that stands still
  const store::Effort effort = automatic && frequent() ? store::Effort::kQuick : store::Effort::kDense;
  const store::CheckpointInfo info = checkpointer_->create({name, parent(), automatic, effort, ++epoch_, runs}, progress);
  spdlog::log(automatic ? spdlog::level::debug : spdlog::level::info,
              "guest {} ({}), epoch {}: checkpoint {}: {} pages changed, {} new, {} KiB stored, paused {} us", name_, guest_, info.epoch,
              info.id, info.pages, info.pages_stored, info.bytes_stored >> 10, info.pause_us);
  engine_.was_paused(info.pause_us);
  if (info.parent.empty()) compact_soon();  // it was stored quickly, and is to be stored densely
  engine_.report("attached");
  return info;
}

void CheckpointService::start_pace() {
  pace_ = {};
  if (!live_ || options_.checkpoint_interval_s() <= 0) return;
  const auto interval = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options_.checkpoint_interval_s()));
  const double percent = options_.checkpoint_overhead_max() > 0 ? options_.checkpoint_overhead_max() : kOverheadMaxPercent;
  pace_ = Pace(interval, percent / 100, Clock::now());
}

void CheckpointService::take_automatic_checkpoint() {
  const Clock::time_point began = Clock::now();
  Clock::duration cost{};
  bool failed = false;
  const bool wanted = live_ && !engine_.is_held() && !filler_ && state_.phase() == RunState::Phase::kRunning;
  if (wanted && live_->machine.running()) {
    try {
      const store::CheckpointInfo info = create("", true, no_progress);
      cost = std::chrono::microseconds(info.pause_us) + info.pages * kFaultCost;
      thin_out();
    } catch (const Error& error) {
      if (error.code() == Code::kGone || error.code() == Code::kUnavailable) throw;
      spdlog::error("guest {} ({}), epoch {}: no checkpoint: {}", name_, guest_, epoch_, error.what());
      engine_.report("attached", fmt::format("the last automatic checkpoint failed: {}", error.what()));
      failed = true;
    }
  }
  pace_.took(began, Clock::now(), cost);
  if (failed) pace_.postpone(began + std::chrono::seconds(1));
}

protocol::Reply CheckpointService::create(const protocol::Request& request) {
  const std::string& name = request.checkpoint_create().name();
  if (name.size() > kNameMax) throw Error(Code::kInvalid, "a checkpoint's name has at most 255 bytes");
  protocol::Reply reply;
  const store::CheckpointInfo info = create(name, false, engine_.control().progress_of(request.id()));
  *reply.mutable_checkpoint()->mutable_checkpoint() = to_protocol(info, guest_, info.id);
  return reply;
}

protocol::Reply CheckpointService::restore(const protocol::Request& request) {
  const std::string& id = request.checkpoint_restore().id();
  engine_.require_live("restored in place");
  engine_.refuse_while_held();
  const store::CheckpointInfo info = store_->get_without_xml(id);
  engine_.report("restoring", "restoring checkpoint " + id);
  RollbackResult result;
  try {
    result = roll_back(request.checkpoint_restore(), engine_.control().progress_of(request.id()));
  } catch (const Error& error) {
    const bool stopped = state_.phase() == RunState::Phase::kRestoring;
    engine_.report(stopped ? "failed" : "attached",
                   stopped
                       ? fmt::format("the guest is stopped half-way to checkpoint {}: {}; restore again, or restart it", id, error.what())
                       : fmt::format("the last restore failed: {}", error.what()));
    throw;
  }
  engine_.was_paused(result.pause_us);
  engine_.memory_was_put_back();
  spdlog::info("guest {} ({}): back at checkpoint {}, {} pages put back, paused {} us", name_, guest_, id, result.pages_written,
               result.pause_us);
  engine_.report("attached");
  protocol::Reply reply;
  protocol::RestoreReply& out = *reply.mutable_restore();
  *out.mutable_checkpoint() = to_protocol(info, guest_, id);
  out.set_pages_written(result.pages_written);
  out.set_pause_us(result.pause_us);
  out.set_in_place(!request.checkpoint_restore().new_process());
  return reply;
}

protocol::Reply CheckpointService::export_to(const protocol::Request& request, const Fd& file) {
  protocol::Reply reply;
  if (request.has_checkpoint_export_disk()) {
    const protocol::CheckpointExportDisk& asked = request.checkpoint_export_disk();
    reply.mutable_export_done()->set_bytes(export_disk_changes(*store_, asked.id(), asked.target(), file.get()));
    return reply;
  }
  const protocol::CheckpointExport& asked = request.checkpoint_export();
  const auto write = asked.format() == protocol::EXPORT_ELF_CORE ? export_elf_core : export_save_image;
  reply.mutable_export_done()->set_bytes(write(*store_, asked.id(), file.get(), engine_.control().progress_of(request.id())));
  return reply;
}

std::string CheckpointService::newest_before(std::uint64_t ns) const {
  std::string found;
  for (const store::CheckpointInfo& info : store_->list()) {
    if (ns == 0 || static_cast<std::uint64_t>(info.created_ns) < ns) found = info.id;
  }
  if (found.empty()) throw Error(Code::kNotFound, "there is no checkpoint from before that");
  return found;
}

bool CheckpointService::act(const std::string& layer, const std::string& action, const std::string& reason, std::uint64_t before_ns) {
  if (action == "checkpoint") {
    create(beginning(fmt::format("{}: {}", layer, reason), kNameMax), false, no_progress);
  } else if (action == "rollback") {
    protocol::Request request;
    request.mutable_checkpoint_restore()->set_id(newest_before(before_ns));
    restore(request);
  } else {
    return false;
  }
  return true;
}

void CheckpointService::leave() {
  fill_first(no_progress);
  state_.forget_base();
  if (disk_points_) disk_points_->leave();
}

void CheckpointService::forget() {
  fill_first(no_progress);
  if (disk_points_) {
    for (const store::CheckpointInfo& info : store_->list()) disk_points_->release(info);
  }
  store_->remove_all();
}

void CheckpointService::add_status(protocol::GuestStatus& out) const {
  out.set_epoch(epoch_);
  if (const std::string current = state_.current(); store_->contains(current)) out.set_current(current);
  out.set_checkpoints(static_cast<std::uint32_t>(store_->count()));
  out.set_store_bytes(store_->bytes_on_disk());
  if (filler_) out.set_filling(filler_->checkpoint());
}

}  // namespace mhv::checkpoint
