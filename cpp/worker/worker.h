// One guest's engine: answers its requests, takes its epochs, recovers what a former worker left.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "checkpoint/checkpointer.h"
#include "checkpoint/disk_points.h"
#include "checkpoint/export.h"
#include "checkpoint/filler.h"
#include "checkpoint/lineage.h"
#include "checkpoint/live_guest.h"
#include "checkpoint/pace.h"
#include "checkpoint/restore_mark.h"
#include "checkpoint/rollback.h"
#include "checkpoint/run_state.h"
#include "store/store.h"
#include "worker/control.h"
#include "worker/layers.h"
#include "worker/packet_work.h"

namespace mhv::worker {

// A StageFn for work that nobody watches.
inline void no_progress(const char*, std::uint64_t, std::uint64_t) {}

// Two threads: serve() reads mhvd's commands, and answers what only reads the store; the engine thread does everything that
// touches the guest or writes the store, in the order asked. mutex_ guards the queue, and nothing is called under it.
class Worker {
 public:
  // Opens the store; waits for a former worker to let go of it. `start` is needed no longer then. `run_state` is the file shared with later
  // workers.
  Worker(Control& control, const protocol::WorkerStart& start, const Fd& run_state);

  // Until mhvd is gone; what is under way is finished first. Returns the exit status.
  int serve();

 private:
  using Task = std::function<void()>;
  using Clock = std::chrono::steady_clock;
  struct Holding {
    std::string reason;
    Clock::time_point until;
  };
  struct ReadAhead {
    std::string id;
    store::PageTable table;
  };

  // --- control thread
  void dispatch(Command command);
  void dispatch(const protocol::Request& request, std::vector<Fd> fds);
  void list(const protocol::Request& request);
  void show(const protocol::Request& request);
  void enqueue(Task task);
  void enqueue(const protocol::Request& request, std::function<protocol::Reply()> work);

  // --- engine thread
  void run();
  std::optional<Task> next_task();
  void guest_up(const protocol::WorkerGuestUp& up, std::vector<Fd> fds);
  void guest_down(const std::string& reason);
  void drop_live();
  void start_pace();
  void take_automatic_checkpoint();
  store::CheckpointInfo create(const std::string& name, bool automatic, const checkpoint::StageFn& progress);
  std::string parent() const;
  protocol::Reply create(const protocol::Request& request);
  protocol::Reply restore(const protocol::Request& request);
  checkpoint::RollbackResult roll_back(const protocol::CheckpointRestore& request, const checkpoint::StageFn& progress);
  protocol::Reply export_to(const protocol::Request& request, const Fd& file);
  protocol::Reply forget();
  void leave_guest();
  // --- engine thread: what was left half-done (recovery.cpp)
  void finish_interrupted_work();
  void restore_again(const std::string& id);
  checkpoint::RollbackResult roll_back_to(const std::string& id, bool resume, const checkpoint::StageFn& progress);
  // --- engine thread: what stays in the store (keeping.cpp)
  bool frequent() const;
  void thin_out();
  void remove(const std::vector<std::string>& ids);
  void compact_soon();
  void compact();
  protocol::Reply verify(const protocol::Request& request);
  protocol::Reply repair(const protocol::Request& request);
  protocol::Reply stat();
  protocol::Reply compact_now(const protocol::Request& request);

  // --- engine thread: the guest's layers (layer_work.cpp)
  Layers::Owner layers_owner();
  void tick_layers();
  std::string newest_before(std::uint64_t ns) const;
  void act_for_layer(const std::string& layer, const stack::RunningLayer::Wish& wish);

  // --- engine thread: memory that comes page by page (filling.cpp)
  void memory_up(const protocol::WorkerGuestUp& up, const std::vector<Fd>& fds);
  void make_filler(guest::MissingPages memory, const std::string& id);
  void read_ahead(const std::string& id);
  void on_fill_change();
  Clock::time_point wake_at() const;
  bool is_held() const { return held_ && Clock::now() < held_->until; }
  void end_fill();
  void fill_first(const checkpoint::StageFn& progress);
  void fill_before_exit() noexcept;

  checkpoint::LiveGuest& live(const char* for_what);
  void refuse_while_held() const;
  checkpoint::StageFn progress_of(std::uint64_t request);
  void report(const std::string& state, const std::string& message = {});
  // The monitor or the guest failed: this process ends, and mhvd starts another with fresh connections.
  void give_up(const Error& error);

  Control& control_;
  const std::string guest_;
  const std::string name_;
  const std::string store_path_;
  protocol::ServiceOptions options_;
  checkpoint::RunState state_;
  std::unique_ptr<store::Store> store_;
  Background background_;

  // Engine thread only; the later use the earlier.
  ReadAhead ahead_;
  std::optional<guest::MissingPages> memory_;   // of the attached guest, until a filler takes it
  std::unique_ptr<checkpoint::Filler> filler_;  // while memory is being filled on demand
  std::unique_ptr<checkpoint::LiveGuest> live_;
  std::unique_ptr<checkpoint::Lineage> lineage_;
  std::unique_ptr<checkpoint::RestoreMark> mark_;
  std::unique_ptr<checkpoint::DiskPoints> disk_points_;
  std::unique_ptr<checkpoint::Checkpointer> checkpointer_;
  std::optional<Holding> held_;
  std::uint64_t epoch_ = 0;
  std::uint64_t paused_us_ = 0;  // since the guest was attached
  checkpoint::Pace pace_;
  Clock::time_point thinned_;
  Clock::time_point next_compaction_;
  std::string state_name_ = "stopped";
  PacketWork packets_;
  Layers layers_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  bool closing_ = false;
  bool failed_ = false;
};

}  // namespace mhv::worker
