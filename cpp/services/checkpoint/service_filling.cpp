// Memory that comes page by page after a restore (filler.h).
//
// INVARIANT: while filler_ is set, whatever reads the guest's memory calls fill_first() before; and while the run state says
// `filling`, there is a filler_ before QEMU is asked anything.
#include <spdlog/spdlog.h>

#include "checkpoint/pause.h"
#include "checkpoint/service.h"

namespace mhv::checkpoint {
namespace {

constexpr auto kFillTimeout = std::chrono::hours(1);
// The next worker waits so long for the store, and mhvd for this one's end.
constexpr auto kFillBeforeExit = std::chrono::seconds(20);

}  // namespace

void CheckpointService::make_filler(guest::MissingPages memory, const std::string& id) {
  ReadAhead ahead = std::exchange(ahead_, {});
  filler_ = std::make_unique<Filler>(std::move(memory), *store_, id, ahead.id == id ? std::move(ahead.table) : store_->resolve(id),
                                     store_path_ + "/fault-order", [this] { engine_.enqueue([this] { on_fill_change(); }); });
}

// Whatever is wrong with the checkpoint is told to who asks for its restore.
void CheckpointService::read_ahead(const std::string& id) {
  try {
    ahead_ = {id, store_->resolve(id)};
  } catch (const Error& error) {
    spdlog::debug("guest {} ({}): {}", name_, guest_, error.what());
  }
}

void CheckpointService::memory_up(const protocol::WorkerGuestUp& up, guest::MissingPages memory) {
  state_.bind(up.qemu_pid(), up.qemu_start_time());
  memory_.emplace(std::move(memory));
  if (filler_ || state_.filling().empty()) return;
  make_filler(*std::exchange(memory_, std::nullopt), state_.filling());
  filler_->take_over();
  spdlog::warn("guest {} ({}): filling its memory from checkpoint {} where a former worker ended, {} MiB to go", name_, guest_,
               filler_->checkpoint(), (std::uint64_t{filler_->left()} * kPageSize) >> 20);
}

// RAM of a QEMU that has not run comes on demand; of any other, now.
RollbackResult CheckpointService::roll_back(const protocol::CheckpointRestore& request, const StageFn& progress) {
  const bool on_demand = request.new_process() && !filler_ && memory_;
  bool resume = request.new_process();
  if (on_demand) {
    make_filler(*std::exchange(memory_, std::nullopt), request.id());
  } else {
    resume |= state_.phase() == RunState::Phase::kRestoring && state_.runs_after_restore();
    fill_first(progress);
  }
  const auto result = roll_back_to(request.id(), resume, progress);
  if (filler_) filler_->prefetch();
  return result;
}

// Automatic checkpoints begin after a fill, and a fill's end waits for the end of a hold.
engine::Clock::time_point CheckpointService::due() const {
  if (!filler_) return std::min(pace_.due(), next_compaction_);
  return filler_->filled() && live_ != nullptr ? engine_.held_until() : Clock::time_point::max();
}

void CheckpointService::on_fill_change() {
  if (!filler_) return;
  if (filler_->filled() && live_ != nullptr && !engine_.is_held()) {
    end_fill();
  } else if (const std::string problem = filler_->problem(); live_ != nullptr && !problem.empty()) {
    engine_.report_again("memory cannot be filled, and what the guest needs of it waits: " + problem);
  }
}

// Private memory needs no stop: what is there counts as written, and so is looked at by the next checkpoint. What the guest gave
// back meanwhile was there for no collect(), so the tracker is told.
void CheckpointService::end_fill() {
  live_->tracker.were_mapped(filler_->with_content());
  if (filler_->end_needs_stop()) {
    Pause pause(live_->machine, state_);
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
  engine_.memory_has_come();
  engine_.report("attached");
}

void CheckpointService::fill_first(const StageFn& progress) {
  if (!filler_) return;
  engine_.refuse_while_held();
  if (live_ == nullptr) throw Error(Code::kBusy, "guest " + name_ + " is just being attached", "try again");
  filler_->prefetch();
  filler_->wait(progress, kFillTimeout);
  end_fill();
}

// mhvd is gone, or has no use for this worker: nobody may be there to serve the guest for a while.
void CheckpointService::finish() noexcept {
  if (!filler_ || live_ == nullptr) return;
  try {
    filler_->prefetch();
    filler_->wait(no_progress, kFillBeforeExit);
    end_fill();
  } catch (const std::exception& error) {
    spdlog::warn("guest {} ({}): {}; the next worker goes on", name_, guest_, error.what());
  }
}

}  // namespace mhv::checkpoint
