// The worker's side of memory that comes page by page after a restore (checkpoint/filler.h).
//
// INVARIANT: while filler_ is set, whatever reads the guest's memory calls fill_first() before; and while the run state says
// `filling`, there is a filler_ before QEMU is asked anything.
#include <spdlog/spdlog.h>

#include "checkpoint/pause.h"
#include "worker/convert.h"
#include "worker/worker.h"

namespace mhv::worker {
namespace {

constexpr auto kFillTimeout = std::chrono::hours(1);
// The next worker waits so long for the store, and mhvd for this one's end.
constexpr auto kFillBeforeExit = std::chrono::seconds(20);

}  // namespace

void Worker::make_filler(guest::MissingPages memory, const std::string& id) {
  ReadAhead ahead = std::exchange(ahead_, {});
  filler_ =
      std::make_unique<checkpoint::Filler>(std::move(memory), *store_, id, ahead.id == id ? std::move(ahead.table) : store_->resolve(id),
                                           store_path_ + "/fault-order", [this] { enqueue([this] { on_fill_change(); }); });
}

// Whatever is wrong with the checkpoint is told to who asks for its restore.
void Worker::read_ahead(const std::string& id) {
  try {
    ahead_ = {id, store_->resolve(id)};
  } catch (const Error& error) {
    spdlog::debug("guest {} ({}): {}", name_, guest_, error.what());
  }
}

void Worker::memory_up(const protocol::WorkerGuestUp& up, const std::vector<Fd>& fds) {
  state_.bind(up.qemu_pid(), up.qemu_start_time());
  if (filler_ || state_.filling().empty()) return;
  make_filler(to_missing_pages(up, fds), state_.filling());
  filler_->take_over();
  spdlog::warn("guest {} ({}): filling its memory from checkpoint {} where a former worker ended, {} MiB to go", name_, guest_,
               filler_->checkpoint(), (std::uint64_t{filler_->left()} * kPageSize) >> 20);
}

// RAM of a QEMU that has not run comes on demand; of any other, now.
checkpoint::RollbackResult Worker::roll_back(const protocol::CheckpointRestore& request, const checkpoint::StageFn& progress) {
  const bool on_demand = request.new_process() && !filler_ && memory_;
  bool resume = request.new_process();
  if (on_demand) {
    make_filler(*std::exchange(memory_, std::nullopt), request.id());
  } else {
    resume |= state_.phase() == checkpoint::RunState::Phase::kRestoring && state_.runs_after_restore();
    fill_first(progress);
  }
  const auto result = roll_back_to(request.id(), resume, progress);
  if (filler_) filler_->prefetch();
  return result;
}

// When there is something to do that nobody asks for. Automatic checkpoints begin after a fill, and a fill's end waits for the end
// of a hold.
Worker::Clock::time_point Worker::wake_at() const {
  if (!filler_) return std::min({pace_.due(), next_compaction_, layers_.due()});
  return filler_->filled() && held_ ? held_->until : Clock::time_point::max();
}

void Worker::on_fill_change() {
  if (!filler_) return;
  if (filler_->filled() && live_ && !is_held()) {
    end_fill();
  } else if (const std::string problem = filler_->problem(); live_ && !problem.empty()) {
    report(state_name_, "memory cannot be filled, and what the guest needs of it waits: " + problem);
  }
}

// Private memory needs no stop: what is there counts as written, and so is looked at by the next checkpoint. What the guest gave
// back meanwhile was there for no collect(), so the tracker is told.
void Worker::end_fill() {
  live_->tracker.were_mapped(filler_->with_content());
  if (filler_->end_needs_stop()) {
    checkpoint::Pause pause(live_->machine, state_);
    filler_->end();
    state_.end_fill();
    pause.resume();
    spdlog::info("guest {} ({}): all memory is there, {} pages filled; paused {} us to let it go", name_, guest_, filler_->pages(),
                 pause.microseconds());
  } else {
    filler_->end();
    state_.end_fill();
    spdlog::info("guest {} ({}): all memory is there, {} pages filled", name_, guest_, filler_->pages());
  }
  filler_.reset();
  layers_.guest_up(*live_, *lineage_);
  report("attached");
}

void Worker::fill_first(const checkpoint::StageFn& progress) {
  if (!filler_) return;
  refuse_while_held();
  if (!live_) throw Error(Code::kBusy, "guest " + name_ + " is just being attached", "try again");
  filler_->prefetch();
  filler_->wait(progress, kFillTimeout);
  end_fill();
}

// mhvd is gone, or has no use for this worker: nobody may be there to serve the guest for a while.
void Worker::fill_before_exit() noexcept {
  if (!filler_ || !live_) return;
  try {
    filler_->prefetch();
    filler_->wait(no_progress, kFillBeforeExit);
    end_fill();
  } catch (const std::exception& error) {
    spdlog::warn("guest {} ({}): {}; the next worker goes on", name_, guest_, error.what());
  }
}

}  // namespace mhv::worker
