// The layers of one guest: each has a process (mhvd starts it, in a sandbox), a ring, and epochs; one that ended is started again.
//
// INVARIANT: a layer that claims to know what was written is told of every page by the next epoch that it gets, or that all may have been.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/control.h"
#include "guest/live_guest.h"
#include "guest/page_set.h"
#include "stack/running_layer.h"
#include "worker/layer_memory.h"
#include "worker/packet_work.h"

namespace mhv::worker {

// The engine thread's, but for call() and status().
class Layers {
 public:
  using Clock = std::chrono::steady_clock;
  // What it needs of the worker. From any thread: enqueue, which runs something on the engine thread, and changed.
  struct Owner {
    std::string uuid, name;
    std::function<void(std::function<void()>)> enqueue;
    std::function<void()> changed;                                                             // status() has something new
    std::function<void(const std::string& layer, const stack::RunningLayer::Wish& wish)> act;  // engine thread
    std::function<void(std::uint64_t us)> paused;                                              // engine thread
  };
  // `control` and `packets` outlive it.
  Layers(engine::Control& control, PacketWork& packets, Owner owner) : control_(control), packets_(packets), owner_(std::move(owner)) {}
  ~Layers() { guest_down(); }

  // Those that are not named end; those whose manifest or configuration is another start anew.
  void configure(const std::vector<protocol::LayerSpec>& specs);
  // Until guest_down(), which has to come before its end.
  void guest_up(guest::LiveGuest& live);
  void guest_down();
  void all_written();  // memory was put back by a restore
  // Its process is no more, or of no use: it is started again.
  void ended(const std::string& name, std::uint64_t generation, const std::string& why);

  Clock::time_point due() const { return due_; }
  // Starts and tells whoever is due. `may_pause`: the guest may be stopped for a moment.
  void tick(bool may_pause);

  // Any thread. The reply comes by `control`.
  void call(std::uint64_t request, const protocol::LayerCall& asked);
  std::vector<protocol::LayerStatus> status() const;

 private:
  struct Entry {
    protocol::LayerSpec spec;
    stack::Charter charter;
    std::uint64_t generation = 0;
    std::shared_ptr<stack::RunningLayer> running;
    Clock::time_point start_at{}, started_at{}, epoch_at{};
    Clock::duration delay{};
    guest::PageSet written{0};
    bool written_all = true;
    protocol::LayerStatus status;
  };

  void start(Entry& entry);
  void try_to_start(Entry& entry);
  void stop(Entry& entry);
  void start_anew();
  stack::RunningLayer::Handlers handlers(const std::string& name, std::uint64_t generation);
  void spread(const std::string& from, const std::string& event);
  void tell(const std::vector<Entry*>& due, bool may_pause);
  std::vector<ring::Vcpu> read_vcpus();
  void schedule();
  Entry* find(const std::string& name);

  engine::Control& control_;
  PacketWork& packets_;
  const Owner owner_;
  guest::LiveGuest* live_ = nullptr;
  std::shared_ptr<const guest::WrittenPages::Listener> listener_;
  std::shared_ptr<LayerMemory> memory_;
  Clock::time_point due_ = Clock::time_point::max();
  std::uint64_t next_generation_ = 1;
  std::uint64_t epoch_ = 0;
  Clock::time_point said_at_{};

  mutable std::mutex mutex_;  // guards the list, what runs and the statuses, for the threads that call() and status()
  std::vector<std::unique_ptr<Entry>> entries_;
};

}  // namespace mhv::worker
