#include "worker/worker.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <thread>

#include "worker/convert.h"

namespace mhv::worker {
namespace {

constexpr std::uint32_t kListMax = 1000;
constexpr double kOverheadMaxPercent = 10;
// What the first write to a protected page costs the guest: fault_us of tests/bench/run checkpoint.
constexpr std::chrono::nanoseconds kFaultCost{3000};
constexpr auto kProgressEvery = std::chrono::milliseconds(100);

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

Worker::Worker(Control& control, const protocol::WorkerStart& start, const Fd& run_state)
    : control_(control),
      guest_(start.guest()),
      name_(start.name()),
      store_path_(start.store_path()),
      options_(start.options()),
      state_(run_state),
      store_(open_store(start)),
      layers_(control, packets_, layers_owner()) {
  layers_.configure({start.layers().begin(), start.layers().end()});
  report("stopped");
}

int Worker::serve() {
  std::thread engine([this] { run(); });
  try {
    while (std::optional<Command> command = control_.receive()) dispatch(std::move(*command));
  } catch (const Error& error) {
    spdlog::error("guest {} ({}): {}", name_, guest_, error.what());
  }
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_one();
  engine.join();
  return failed_ ? 1 : 0;
}

// ---------------------------------------------------------------- control thread

void Worker::dispatch(Command command) {
  using Kind = protocol::WorkerCommand;
  switch (command.message.body_case()) {
    case Kind::kMemoryUp:
      enqueue([this, up = command.message.memory_up(), fds = std::make_shared<std::vector<Fd>>(std::move(command.fds))] {
        memory_up(up, *fds);
      });
      break;
    case Kind::kGuestUp:
      enqueue([this, up = command.message.guest_up(), fds = std::make_shared<std::vector<Fd>>(std::move(command.fds))] {
        guest_up(up, std::move(*fds));
      });
      break;
    case Kind::kGuestDown:
      packets_.remove_all_taps();  // at once, too: those that come next are another QEMU's
      enqueue([this, down = command.message.guest_down()] {
        if (down.detach()) leave_guest();
        guest_down(down.reason());
      });
      break;
    // At once: what the guest sends does not wait for what the engine thread does.
    case Kind::kTaps: packets_.change_taps(command.message.taps(), std::move(command.fds)); break;
    case Kind::kReadAhead: enqueue([this, id = command.message.read_ahead()] { read_ahead(id); }); break;
    case Kind::kOptions:
      enqueue([this, options = command.message.options().options(), layers = command.message.options().layers()] {
        options_ = options;
        layers_.configure({layers.begin(), layers.end()});
        if (live_) live_->snapshot_disks = options_.checkpoint_disks() != protocol::DISKS_NONE;
        start_pace();
      });
      break;
    case Kind::kLayerEnded:
      enqueue([this, end = command.message.layer_ended()] { layers_.ended(end.name(), end.generation(), end.reason()); });
      break;
    case Kind::kRequest: dispatch(command.message.request(), std::move(command.fds)); break;
    default: spdlog::warn("guest {} ({}): mhvd sent a command that this worker does not know", name_, guest_);
  }
}

void Worker::dispatch(const protocol::Request& request, std::vector<Fd> fds) {
  using Kind = protocol::Request;
  switch (request.body_case()) {
    case Kind::kCheckpointList: list(request); break;
    case Kind::kCheckpointShow: show(request); break;
    case Kind::kLayerCall: layers_.call(request.id(), request.layer_call()); break;
    case Kind::kCheckpointCreate: enqueue(request, [this, request] { return create(request); }); break;
    case Kind::kCheckpointRestore: enqueue(request, [this, request] { return restore(request); }); break;
    case Kind::kCheckpointVerify: enqueue(request, [this, request] { return verify(request); }); break;
    case Kind::kStoreRepair: enqueue(request, [this, request] { return repair(request); }); break;
    case Kind::kStoreStat: enqueue(request, [this] { return stat(); }); break;
    case Kind::kStoreCompact: enqueue(request, [this, request] { return compact_now(request); }); break;
    case Kind::kCheckpointDelete:
      enqueue(request, [this, id = request.checkpoint_delete().id()] {
        remove({id});
        protocol::Reply reply;
        reply.mutable_done();
        return reply;
      });
      break;
    case Kind::kCheckpointExport:
    case Kind::kCheckpointExportDisk:
      if (fds.size() != 1) {
        control_.fail(request.id(), Error(Code::kInvalid, "an export needs one open file beside it"));
        break;
      }
      enqueue(request, [this, request, file = std::make_shared<Fd>(std::move(fds[0]))] { return export_to(request, *file); });
      break;
    case Kind::kHold:
      enqueue(request, [this, hold = request.hold()] {
        const auto timeout =
            std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(std::clamp(hold.timeout_s(), 0.0, 86400.0)));
        held_ = Holding{hold.reason(), Clock::now() + timeout};
        if (live_) report("held", "held for " + hold.reason());
        protocol::Reply reply;
        reply.mutable_done();
        return reply;
      });
      break;
    case Kind::kRelease:
      enqueue(request, [this] {
        held_.reset();
        on_fill_change();
        if (live_) report("attached");
        protocol::Reply reply;
        reply.mutable_done();
        return reply;
      });
      break;
    case Kind::kForget: enqueue(request, [this] { return forget(); }); break;
    default:
      control_.fail(request.id(),
                    Error(Code::kInvalid, "this worker does not know that request", "run the same release of mhvd and mhv-worker"));
  }
}

void Worker::list(const protocol::Request& request) {
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
    control_.reply(request.id(), std::move(reply));
  } catch (const Error& error) {
    control_.fail(request.id(), error);
  }
}

void Worker::show(const protocol::Request& request) {
  try {
    protocol::Reply reply;
    *reply.mutable_checkpoint()->mutable_checkpoint() =
        to_protocol(store_->get_without_xml(request.checkpoint_show().id()), guest_, state_.current());
    control_.reply(request.id(), std::move(reply));
  } catch (const Error& error) {
    control_.fail(request.id(), error);
  }
}

void Worker::enqueue(Task task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  changed_.notify_one();
}

void Worker::enqueue(const protocol::Request& request, std::function<protocol::Reply()> work) {
  enqueue([this, id = request.id(), work = std::move(work)] {
    try {
      control_.reply(id, work());
    } catch (const Error& error) {
      spdlog::warn("guest {} ({}): {}", name_, guest_, error.what());
      control_.fail(id, error);
      if (error.code() == Code::kGone || error.code() == Code::kUnavailable) give_up(error);
    }
  });
}

// ---------------------------------------------------------------- engine thread

std::optional<Worker::Task> Worker::next_task() {
  std::unique_lock lock(mutex_);
  const auto ready = [this] { return closing_ || !tasks_.empty(); };
  const Clock::time_point until = wake_at();
  if (until == Clock::time_point::max()) {
    changed_.wait(lock, ready);
  } else {
    changed_.wait_until(lock, until, ready);
  }
  if (!tasks_.empty()) {
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    return task;
  }
  if (closing_) return std::nullopt;
  if (filler_) return [this] { on_fill_change(); };
  if (pace_.due() <= Clock::now()) return [this] { take_automatic_checkpoint(); };
  if (layers_.due() <= Clock::now()) return [this] { tick_layers(); };
  return [this] { compact(); };
}

void Worker::run() {
  while (std::optional<Task> task = next_task()) {
    try {
      (*task)();
    } catch (const Error& error) {
      give_up(error);
    } catch (const std::exception& error) {
      give_up(Error(Code::kInternal, error.what()));
    }
  }
  fill_before_exit();
}

void Worker::give_up(const Error& error) {
  spdlog::error("guest {} ({}), epoch {}: {}; a new worker takes over", name_, guest_, epoch_, error.what());
  report("failed", error.what());
  // Not exit(): the threads still stand where they are. What a death leaves behind is recovered by the next worker.
  std::_Exit(1);
}

void Worker::guest_up(const protocol::WorkerGuestUp& up, std::vector<Fd> fds) {
  drop_live();
  report("attaching");
  state_.bind(up.qemu_pid(), up.qemu_start_time());
  try {
    memory_.emplace(to_missing_pages(up, fds));
    if (!filler_ && !state_.filling().empty()) memory_up(up, fds);
    live_ = to_live_guest(up, std::move(fds));
    live_->snapshot_disks = options_.checkpoint_disks() != protocol::DISKS_NONE;
    lineage_ = std::make_unique<checkpoint::Lineage>(live_->ram.pages(), state_, up.uffd_is_new());
    mark_ = std::make_unique<checkpoint::RestoreMark>(store_path_ + "/restoring", ProcessId{up.qemu_pid(), up.qemu_start_time()});
    finish_interrupted_work();
    disk_points_ = std::make_unique<checkpoint::DiskPoints>(*live_, *store_);
    checkpointer_ = std::make_unique<checkpoint::Checkpointer>(*live_, *store_, state_, *lineage_, *disk_points_, background_);
  } catch (const Error& error) {
    if (error.code() == Code::kUnsupported || error.code() == Code::kInvalid) {
      spdlog::error("guest {} ({}): cannot attach: {}", name_, guest_, error.what());
      drop_live();
      report("failed", fmt::format("{}{}{}", error.what(), error.hint().empty() ? "" : "; ", error.hint()));
      return;
    }
    throw;
  }
  paused_us_ = 0;
  const std::optional<store::CheckpointInfo> newest = store_->newest();
  epoch_ = newest ? newest->epoch : 0;
  start_pace();
  spdlog::info("guest {} ({}): attached, {} MiB in {} blocks, qemu pid {}, base {}", name_, guest_, live_->ram.bytes() >> 20,
               live_->ram.blocks().size(), up.qemu_pid(), lineage_->base().value_or("unknown"));
  if (filler_) filler_->prefetch();
  report("attached");
  if (!filler_) layers_.guest_up(*live_, *lineage_);
  on_fill_change();  // all may have been there before the guest was
}

// What waits for a page is served on.
void Worker::drop_live() {
  layers_.guest_down();
  checkpointer_.reset();
  disk_points_.reset();
  mark_.reset();
  lineage_.reset();
  live_.reset();
  memory_.reset();
  held_.reset();
  pace_ = {};
}

void Worker::guest_down(const std::string& reason) {
  drop_live();
  filler_.reset();
  if (!reason.empty()) {
    spdlog::info("guest {} ({}): {}", name_, guest_, reason);
    report("stopped", reason);
  }
}

checkpoint::LiveGuest& Worker::live(const char* for_what) {
  if (!live_) {
    throw Error(Code::kInvalid, fmt::format("guest {} is not attached: it cannot be {}", name_, for_what),
                "start the guest, and see: mhvctl status " + name_);
  }
  return *live_;
}

void Worker::refuse_while_held() const {
  if (is_held()) {
    throw Error(Code::kBusy, fmt::format("guest {} is held for {}", name_, held_->reason),
                "try again when that is over, or: mhvctl release " + name_);
  }
}

std::string Worker::parent() const {
  const std::string current = lineage_->base().value_or(state_.current());
  if (store_->contains(current)) return store_->get_without_xml(current).blocks == live_->blocks() ? current : "";
  std::string found;  // the last one that fits; the guest runs on top of none, so this is rare
  for (const store::CheckpointInfo& info : store_->list()) {
    if (info.blocks == live_->blocks()) found = info.id;
  }
  return found;
}

store::CheckpointInfo Worker::create(const std::string& name, bool automatic, const checkpoint::StageFn& progress) {
  live("checkpointed");
  refuse_while_held();
  if (state_.phase() == checkpoint::RunState::Phase::kRestoring) {
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
  paused_us_ += info.pause_us;
  if (info.parent.empty()) compact_soon();  // it was stored quickly, and is to be stored densely
  report("attached");
  return info;
}

void Worker::start_pace() {
  pace_ = {};
  if (!live_ || options_.checkpoint_interval_s() <= 0) return;
  const auto interval = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options_.checkpoint_interval_s()));
  const double percent = options_.checkpoint_overhead_max() > 0 ? options_.checkpoint_overhead_max() : kOverheadMaxPercent;
  pace_ = checkpoint::Pace(interval, percent / 100, Clock::now());
}

void Worker::take_automatic_checkpoint() {
  const Clock::time_point began = Clock::now();
  Clock::duration cost{};
  bool failed = false;
  const bool wanted = live_ && !is_held() && !filler_ && state_.phase() == checkpoint::RunState::Phase::kRunning;
  if (wanted && live_->machine.running()) {
    try {
      const store::CheckpointInfo info = create("", true, no_progress);
      cost = std::chrono::microseconds(info.pause_us) + info.pages * kFaultCost;
      thin_out();
    } catch (const Error& error) {
      if (error.code() == Code::kGone || error.code() == Code::kUnavailable) throw;
      spdlog::error("guest {} ({}), epoch {}: no checkpoint: {}", name_, guest_, epoch_, error.what());
      report("attached", fmt::format("the last automatic checkpoint failed: {}", error.what()));
      failed = true;
    }
  }
  pace_.took(began, Clock::now(), cost);
  if (failed) pace_.postpone(began + std::chrono::seconds(1));
}

protocol::Reply Worker::create(const protocol::Request& request) {
  const std::string& name = request.checkpoint_create().name();
  if (name.size() > 255) throw Error(Code::kInvalid, "a checkpoint's name has at most 255 bytes");
  protocol::Reply reply;
  const store::CheckpointInfo info = create(name, false, progress_of(request.id()));
  *reply.mutable_checkpoint()->mutable_checkpoint() = to_protocol(info, guest_, info.id);
  return reply;
}

protocol::Reply Worker::restore(const protocol::Request& request) {
  const std::string& id = request.checkpoint_restore().id();
  live("restored in place");
  refuse_while_held();
  const store::CheckpointInfo info = store_->get_without_xml(id);
  report("restoring", "restoring checkpoint " + id);
  checkpoint::RollbackResult result;
  try {
    result = roll_back(request.checkpoint_restore(), progress_of(request.id()));
  } catch (const Error& error) {
    const bool stopped = state_.phase() == checkpoint::RunState::Phase::kRestoring;
    report(stopped ? "failed" : "attached",
           stopped ? fmt::format("the guest is stopped half-way to checkpoint {}: {}; restore again, or restart it", id, error.what())
                   : fmt::format("the last restore failed: {}", error.what()));
    throw;
  }
  paused_us_ += result.pause_us;
  layers_.all_written();
  spdlog::info("guest {} ({}): back at checkpoint {}, {} pages put back, paused {} us", name_, guest_, id, result.pages_written,
               result.pause_us);
  report("attached");
  protocol::Reply reply;
  protocol::RestoreReply& out = *reply.mutable_restore();
  *out.mutable_checkpoint() = to_protocol(info, guest_, id);
  out.set_pages_written(result.pages_written);
  out.set_pause_us(result.pause_us);
  out.set_in_place(!request.checkpoint_restore().new_process());
  return reply;
}

protocol::Reply Worker::export_to(const protocol::Request& request, const Fd& file) {
  protocol::Reply reply;
  if (request.has_checkpoint_export_disk()) {
    const protocol::CheckpointExportDisk& asked = request.checkpoint_export_disk();
    reply.mutable_export_done()->set_bytes(checkpoint::export_disk_changes(*store_, asked.id(), asked.target(), file.get()));
    return reply;
  }
  const protocol::CheckpointExport& asked = request.checkpoint_export();
  const auto write = asked.format() == protocol::EXPORT_ELF_CORE ? checkpoint::export_elf_core : checkpoint::export_save_image;
  reply.mutable_export_done()->set_bytes(write(*store_, asked.id(), file.get(), progress_of(request.id())));
  return reply;
}

void Worker::leave_guest() {
  fill_first(no_progress);
  state_.forget_base();
  if (disk_points_) disk_points_->leave();
  if (live_) live_->tracker.detach();
}

protocol::Reply Worker::forget() {
  fill_first(no_progress);
  if (disk_points_) {
    for (const store::CheckpointInfo& info : store_->list()) disk_points_->release(info);
  }
  store_->remove_all();
  leave_guest();
  guest_down("forgotten");
  protocol::Reply reply;
  reply.mutable_done();
  return reply;
}

checkpoint::StageFn Worker::progress_of(std::uint64_t request) {
  return [this, request, last = Clock::time_point{}](const char* stage, std::uint64_t done, std::uint64_t total) mutable {
    if (Clock::now() - last < kProgressEvery) return;
    last = Clock::now();
    control_.progress(request, stage, done, total);
  };
}

void Worker::report(const std::string& state, const std::string& message) {
  state_name_ = state;
  protocol::WorkerReport report;
  protocol::GuestStatus& out = *report.mutable_status();
  out.set_uuid(guest_);
  out.set_name(name_);
  out.set_state(state);
  out.set_message(message);
  out.set_epoch(epoch_);
  out.set_paused_us(paused_us_);
  if (const std::string current = state_.current(); store_->contains(current)) out.set_current(current);
  out.set_checkpoints(static_cast<std::uint32_t>(store_->count()));
  out.set_store_bytes(store_->bytes_on_disk());
  *out.mutable_options() = options_;
  if (live_) out.set_ram_bytes(live_->ram.bytes());
  if (filler_) out.set_filling(filler_->checkpoint());
  for (protocol::LayerStatus& layer : layers_.status()) *out.add_layers() = std::move(layer);
  control_.send(report);
}

}  // namespace mhv::worker
