// One guest's engine: takes its guest from mhvd, and gives each of its services, layers and packets their turn.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/control.h"
#include "engine/service.h"
#include "worker/layers.h"
#include "worker/packet_work.h"

namespace mhv::worker {

// Two threads: serve() reads mhvd's commands; the engine thread does everything that touches the guest, in the order asked.
// mutex_ guards the queue, and nothing is called under it.
class Worker : public engine::Engine {
 public:
  // `start` is needed no longer then.
  Worker(engine::Control& control, const protocol::WorkerStart& start);

  // Before serve().
  void add(std::unique_ptr<engine::Service> service) { services_.push_back(std::move(service)); }
  // Until mhvd is gone; what is under way is finished first.
  void serve();

  // --- for its services
  const std::string& uuid() const override { return guest_; }
  const std::string& name() const override { return name_; }
  engine::Control& control() override { return control_; }
  void enqueue(std::function<void()> task) override;
  void enqueue(const protocol::Request& request, std::function<protocol::Reply()> work) override;
  void require_live(const char* for_what) const override;
  engine::Clock::time_point held_until() const override;
  void refuse_while_held() const override;
  void report(const std::string& state, const std::string& message = {}) override;
  void report_again(const std::string& message = {}) override { report(state_name_, message); }
  void was_paused(std::uint64_t us) override { paused_us_ += us; }
  void memory_was_put_back() override { layers_.all_written(); }
  void memory_has_come() override;

 private:
  using Task = std::function<void()>;
  using Clock = engine::Clock;
  struct Holding {
    std::string reason;
    Clock::time_point until;
  };

  // --- control thread
  void dispatch(engine::Command command);
  void dispatch(const protocol::Request& request, std::vector<Fd> fds);

  // --- engine thread
  void run();
  std::optional<Task> next_task();
  bool has_memory_to_come() const;
  std::pair<Clock::time_point, engine::Service*> first_due() const;
  void memory_up(const protocol::WorkerGuestUp& up, const std::vector<Fd>& fds);
  void guest_up(const protocol::WorkerGuestUp& up, std::vector<Fd> fds);
  void guest_down(const std::string& reason);
  void drop_live();
  void leave_guest();
  protocol::Reply hold(const protocol::Hold& hold);
  protocol::Reply release();
  protocol::Reply forget();
  // --- engine thread: the guest's layers (layer_work.cpp)
  Layers::Owner layers_owner();
  void tick_layers();
  void act_for_layer(const std::string& layer, const stack::RunningLayer::Wish& wish);

  // The monitor or the guest failed: this process ends, and mhvd starts another with fresh connections.
  void give_up(const Error& error);

  engine::Control& control_;
  const std::string guest_;
  const std::string name_;
  protocol::ServiceOptions options_;

  // Engine thread only; the later use the earlier.
  std::unique_ptr<guest::LiveGuest> live_;
  std::optional<Holding> held_;
  std::uint64_t paused_us_ = 0;  // since the guest was attached
  std::string state_name_ = "stopped";
  PacketWork packets_;
  Layers layers_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  bool closing_ = false;

  std::vector<std::unique_ptr<engine::Service>> services_;  // their threads use all of the above
};

}  // namespace mhv::worker
