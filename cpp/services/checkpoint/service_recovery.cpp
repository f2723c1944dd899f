// What a former worker, or a former QEMU of the guest, left half-done.
//
// INVARIANT: a guest whose run state says `restoring`, or that has the mark of a restore which QEMU did not survive, is restored before it
// is said to be attached (checkpoint/run_state.h, checkpoint/restore_mark.h).
#include <spdlog/spdlog.h>

#include "checkpoint/pause.h"
#include "checkpoint/service.h"

namespace mhv::checkpoint {

void CheckpointService::finish_interrupted_work() {
  using Phase = RunState::Phase;
  if (state_.phase() == Phase::kStopped) {
    spdlog::warn("guest {} ({}): a former worker left the guest stopped; resuming it", name_, guest_);
    live_->machine.resume();
    state_.set_phase(Phase::kRunning);
  } else if (state_.phase() == Phase::kRestoring) {
    live_->machine.clean_up_load();  // before anything is put back: it may still run
    const std::string id = state_.target();
    spdlog::warn("guest {} ({}): finishing the restore of checkpoint {} that a former worker began", name_, guest_, id);
    roll_back_to(id, state_.runs_after_restore(), no_progress);
  }
  const std::string id = mark_->left_behind();
  // A QEMU that has not run, and was started for a restore, gets that one.
  const bool gets_another = !ahead_.id.empty() && !live_->machine.running();
  if (!id.empty() && !gets_another) restore_again(id);
}

void CheckpointService::restore_again(const std::string& id) {
  spdlog::warn("guest {} ({}): QEMU ended in the middle of the restore of checkpoint {}; doing it again", name_, guest_, id);
  Pause pause(live_->machine, state_);
  try {
    roll_back_to(id, pause.stopped(), no_progress);
    pause.keep_stopped();  // it runs again
  } catch (const Error& error) {
    const bool half_way = state_.phase() == RunState::Phase::kRestoring;
    if (half_way) pause.keep_stopped();
    if (half_way || error.code() == Code::kGone || error.code() == Code::kUnavailable) throw;
    spdlog::error(
        "guest {} ({}): the restore of checkpoint {} was cut off by QEMU's end, and cannot be done again: {}; its disks may be "
        "between two moments: restore another checkpoint, or have the guest check its file systems",
        name_, guest_, id, error.what());
    mark_->clear();
  }
}

RollbackResult CheckpointService::roll_back_to(const std::string& id, bool resume, const StageFn& progress) {
  return Rollback(*live_, *store_, state_, *lineage_, *mark_, filler_.get()).run(id, resume, progress);
}

}  // namespace mhv::checkpoint
