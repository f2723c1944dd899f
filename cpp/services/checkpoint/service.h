// Checkpoints as a service of the engine: answers what is asked of it, takes the automatic ones, recovers what a former worker left.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/background.h"
#include "checkpoint/checkpointer.h"
#include "checkpoint/disk_points.h"
#include "checkpoint/export.h"
#include "checkpoint/filler.h"
#include "checkpoint/lineage.h"
#include "checkpoint/pace.h"
#include "checkpoint/restore_mark.h"
#include "checkpoint/rollback.h"
#include "checkpoint/run_state.h"
#include "engine/service.h"
#include "guest/live_guest.h"
#include "store/store.h"

namespace mhv::checkpoint {

// A StageFn for work that nobody watches.
inline void no_progress(const char*, std::uint64_t, std::uint64_t) {}

// dispatch() answers on the control thread what only reads the store; all that touches the guest or writes the store is done on the
// engine thread, in the order asked.
class CheckpointService : public engine::Service {
 public:
  // Opens the store; waits for a former worker to let go of it. `engine` outlives it; `start` is needed no longer then. `run_state` is the
  // file shared with later workers.
  CheckpointService(engine::Engine& engine, const protocol::WorkerStart& start, const Fd& run_state);

  void configure(const protocol::ServiceOptions& options) override;
  bool dispatch(const protocol::Request& request, std::vector<Fd>& fds) override;
  void read_ahead(const std::string& checkpoint) override;
  void memory_up(const protocol::WorkerGuestUp& up, guest::MissingPages memory) override;
  void guest_up(guest::LiveGuest& live, const protocol::WorkerGuestUp& up) override;
  void detach() override;
  void guest_down() override { filler_.reset(); }
  void leave() override;
  void forget() override;
  void finish() noexcept override;
  engine::Clock::time_point due() const override;
  void tick() override;
  bool has_memory_to_come() const override { return filler_ != nullptr; }
  bool is_between_moments() const override { return state_.phase() != RunState::Phase::kRunning; }
  bool act(const std::string& layer, const std::string& action, const std::string& reason, std::uint64_t before_ns) override;
  void add_status(protocol::GuestStatus& out) const override;

 private:
  using Clock = engine::Clock;
  struct ReadAhead {
    std::string id;
    store::PageTable table;
  };

  // --- control thread
  void list(const protocol::Request& request);
  void show(const protocol::Request& request);

  void start_pace();
  void take_automatic_checkpoint();
  store::CheckpointInfo create(const std::string& name, bool automatic, const StageFn& progress);
  std::string parent() const;
  protocol::Reply create(const protocol::Request& request);
  protocol::Reply restore(const protocol::Request& request);
  RollbackResult roll_back(const protocol::CheckpointRestore& request, const StageFn& progress);
  protocol::Reply export_to(const protocol::Request& request, const Fd& file);
  std::string newest_before(std::uint64_t ns) const;
  // --- what was left half-done (service_recovery.cpp)
  void finish_interrupted_work();
  void restore_again(const std::string& id);
  RollbackResult roll_back_to(const std::string& id, bool resume, const StageFn& progress);
  // --- what stays in the store (service_keeping.cpp)
  bool frequent() const;
  void thin_out();
  void remove(const std::vector<std::string>& ids);
  void compact_soon();
  void compact();
  protocol::Reply verify(const protocol::Request& request);
  protocol::Reply repair(const protocol::Request& request);
  protocol::Reply stat();
  protocol::Reply compact_now(const protocol::Request& request);
  // --- memory that comes page by page (service_filling.cpp)
  void make_filler(guest::MissingPages memory, const std::string& id);
  void on_fill_change();
  void end_fill();
  void fill_first(const StageFn& progress);

  engine::Engine& engine_;
  const std::string guest_;
  const std::string name_;
  const std::string store_path_;
  protocol::ServiceOptions options_;
  RunState state_;
  std::unique_ptr<store::Store> store_;
  Background background_;

  // Engine thread only; the later use the earlier.
  ReadAhead ahead_;
  std::optional<guest::MissingPages> memory_;  // of the attached guest, until a filler takes it
  std::unique_ptr<Filler> filler_;             // while memory is being filled on demand
  guest::LiveGuest* live_ = nullptr;
  std::unique_ptr<Lineage> lineage_;
  std::unique_ptr<RestoreMark> mark_;
  std::unique_ptr<DiskPoints> disk_points_;
  std::unique_ptr<Checkpointer> checkpointer_;
  std::uint64_t epoch_ = 0;
  Pace pace_;
  Clock::time_point thinned_;
  Clock::time_point next_compaction_;
};

}  // namespace mhv::checkpoint
