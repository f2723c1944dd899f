// One known guest: its worker kept alive, its QEMU handed to it, its requests passed on.
//
//   detached  no service is asked for; a worker runs only while somebody asks for what is stored
//   stopped   no QEMU runs
//   attaching a QEMU runs and is about to be handed over
//   up        the worker has it (the worker's own reports say "attached", "held", "restoring", "failed")
//   failed    it cannot be attached (why: message); looked at again at the next event of the guest
//
// One thread per guest does all that takes time (spawning, attaching) and owns worker_, attachment_ and the descriptors;
// client threads and the worker's reader only wake it. Lock order: Guest::mutex_, then nothing of ours.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/fd.h"
#include "mhv.pb.h"
#include "mhvd/config.h"
#include "mhvd/guest_taps.h"
#include "mhvd/hypervisor.h"
#include "mhvd/layer_processes.h"
#include "mhvd/layer_registry.h"
#include "mhvd/worker_process.h"

namespace mhv::mhvd {

// What the guests of a host share for their layers. Thread-safe.
struct LayerHost {
  LayerRegistry registry;
  LayerUsers users;
};

using ReplyFn = std::function<void(const protocol::Reply&)>;

// The guest's worker said why it ends, and so will the next one: whoever asks has to put that right.
class CannotServe : public Error {
 public:
  explicit CannotServe(const Error& why) : Error(why) {}
};

// Thread-safe.
class Guest {
 public:
  enum class Phase { kDetached, kStopped, kAttaching, kUp, kFailed };

  // All but `conf` outlive it. The thread starts at once.
  Guest(const Config& config, Hypervisor& hypervisor, LayerHost& layers, protocol::GuestConf conf);
  ~Guest();           // the worker finishes what it does first
  void begin_stop();  // the destructor's beginning: for many guests, call it on all first

  const std::string& uuid() const { return uuid_; }
  std::string name() const;
  protocol::GuestStatus status() const;
  std::vector<protocol::Alert> alerts(std::uint64_t after) const;  // of its layers, the last ones, by number
  Phase phase() const;

  // Something may have happened to the QEMU: look.
  void poke();
  // New options (no services: detach), saved before this returns. Then waits until the guest's thread has acted on them
  // and the worker has answered, and throws what kept the guest from being attached.
  void configure(const protocol::ServiceOptions& options);
  // No services, without waiting.
  void leave();
  // Looks at the QEMU now, and waits until the worker has it; throws what kept it from that.
  void wait_attached();
  // Passes a request to the worker and waits for the reply that ends it; `progress` gets the others. Throws kUnavailable
  // when there is no worker, or it ends in the middle, and CannotServe. Waits a while for a guest that is being attached.
  protocol::Reply call(protocol::Request request, std::span<const int> fds, const ReplyFn& progress);
  // Of the checkpoint that a QEMU is about to be started for.
  void read_ahead(const std::string& id);
  // Kept here, too, so that a new worker is told again.
  void hold(const protocol::Hold& hold);
  void release();

 private:
  using Clock = std::chrono::steady_clock;
  struct Pending {
    std::optional<protocol::Reply> progress;  // the latest that was not passed on
    std::optional<protocol::Reply> reply;
    std::optional<Error> cannot_serve;  // in its place
  };

  // What the worker asked for its layers.
  struct LayerWish {
    protocol::WorkerReport report;
    std::vector<Fd> fds;
  };

  void run();
  Clock::time_point step();  // what is due; returns when to look again
  void wait_for_events(Clock::time_point until);
  void drop_ended_worker();
  void start_worker();
  void retire_worker();
  bool worker_wanted() const;
  void look_at_domain();
  void act_on(const Domain& domain);
  void bring_up(const Domain& domain);
  void hand_over_memory(const Domain& domain, WorkerProcess& worker);
  void take_down(const std::string& reason, bool detach);
  void failed_to_attach(const Error& error);
  void settle(std::unique_lock<std::mutex>& lock);
  void update_conf(const Domain& domain);
  Clock::time_point keep_clock();  // returns when to call it again
  bool wait_for_worker_state(std::unique_lock<std::mutex>& lock, std::chrono::seconds timeout, bool up);
  void send_hold();
  void on_report(const protocol::WorkerReport& report, std::vector<Fd> fds);
  std::vector<protocol::LayerSpec> layer_specs(const protocol::ServiceOptions& options) const;
  // --- guest_network.cpp
  void settle_taps(const Domain& domain);
  void close_held_taps(const Domain& domain);
  void leave_taps(WorkerProcess* worker, bool drop);
  void undo_taps();
  bool is_held() const;
  void on_network_wish(const protocol::NetworkWish& wish);
  static void drop_holds(protocol::GuestConf& conf);
  void show_holds(protocol::GuestStatus& out) const;
  // --- guest_layers.cpp
  void serve_layers();
  void start_layer(const protocol::LayerStart& wish, std::vector<Fd> fds);
  void tell_worker(const protocol::LayerEnded& ended);
  void on_worker_end();
  void set_phase(Phase phase);
  std::string label() const;  // "s1 (UUID)" for the log

  const Config& config_;
  Hypervisor& hypervisor_;
  LayerHost& layer_host_;
  const std::string uuid_;
  Fd wake_;

  // Of the guest's thread alone:
  std::unique_ptr<Attachment> attachment_;
  Clock::time_point respawn_at_{};
  Clock::time_point spawned_at_{};
  Clock::duration respawn_delay_;
  Clock::time_point look_at_{};        // the next look at the domain when nothing wakes us
  protocol::ClockMoment clock_;        // of a guest on KVM: when its clock was right
  std::uint64_t clock_paused_us_ = 0;  // what it was paused for until it was set right last
  Clock::time_point clock_due_{};
  bool clock_fails_ = false;
  LayerProcesses layers_;
  GuestTaps taps_;
  Fd failed_qemu_;  // of the one that could not be attached: its end is worth a look

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::shared_ptr<WorkerProcess> worker_;
  bool worker_ended_ = false;
  bool stopping_ = false;
  Clock::time_point asked_until_{};      // detached: a worker is wanted until then
  std::optional<Error> worker_failure_;  // the last word of a worker that ended
  bool hand_over_again_ = false;         // the worker could not attach; somebody asks to try again
  protocol::GuestConf conf_;
  protocol::ServiceOptions worker_options_;  // what the worker knows
  protocol::GuestStatus reported_;           // by the worker
  protocol::GuestStatus facts_;              // of the attachment: pid, accelerator, monitor
  Phase phase_ = Phase::kStopped;
  std::optional<Error> failure_;
  std::uint64_t looks_wanted_ = 1;
  std::uint64_t looks_done_ = 0;
  std::uint32_t restarts_ = 0;
  std::uint64_t next_id_ = 1;
  std::map<std::uint64_t, std::shared_ptr<Pending>> pending_;
  std::vector<LayerWish> layer_wishes_;
  std::deque<protocol::Alert> alerts_;
  std::uint64_t next_alert_ = 1;
  std::optional<protocol::Hold> hold_;
  Clock::time_point hold_until_{};

  std::thread thread_;
};

}  // namespace mhv::mhvd
