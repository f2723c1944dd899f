// What the engine itself does for a guest, inside its worker: one folder of services/ for each, which nothing but worker/main.cpp names.
// What it claims is in the folder's engine.json, and goes through the arbiter as the manifest of any layer does (stack/builtin.h).
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/control.h"
#include "guest/live_guest.h"
#include "guest/missing.h"
#include "mhv.pb.h"

namespace mhv::engine {

using Clock = std::chrono::steady_clock;

// What a service is given of the worker it runs in. Engine thread, where nothing else is said.
class Engine {
 public:
  virtual ~Engine() = default;

  // --- any thread
  virtual const std::string& uuid() const = 0;
  virtual const std::string& name() const = 0;
  virtual Control& control() = 0;
  // Runs on the engine thread, in the order asked. What it throws ends the worker, and the next one goes on.
  virtual void enqueue(std::function<void()> task) = 0;
  // The same, but what it returns or throws is the reply; only kGone and kUnavailable end the worker then.
  virtual void enqueue(const protocol::Request& request, std::function<protocol::Reply()> work) = 0;

  // Throws kInvalid: none is attached. `for_what`: as in "it cannot be checkpointed".
  virtual void require_live(const char* for_what) const = 0;
  // A client holds the guest: nobody is to change it. In the past: it is not held.
  virtual Clock::time_point held_until() const = 0;
  bool is_held() const { return held_until() > Clock::now(); }
  virtual void refuse_while_held() const = 0;  // throws kBusy

  // mhvd is told, with the status() of every service.
  virtual void report(const std::string& state, const std::string& message = {}) = 0;
  virtual void report_again(const std::string& message = {}) = 0;  // the state is as before
  virtual void was_paused(std::uint64_t us) = 0;                   // the guest, by a service
  virtual void memory_was_put_back() = 0;                          // any page may be another
  virtual void memory_has_come() = 0;                              // all that was to come (Service::has_memory_to_come())
};

// Engine thread, where nothing else is said. After a death without any warning, the next worker's service is to find its way.
class Service {
 public:
  virtual ~Service() = default;

  virtual void configure(const protocol::ServiceOptions& options) = 0;
  // Control thread. false: the request is another's; else it replies, and may take `fds`.
  virtual bool dispatch(const protocol::Request& request, std::vector<Fd>& fds) = 0;
  // QEMU is about to be started for a restore of that checkpoint.
  virtual void read_ahead(const std::string& checkpoint) = 0;

  // A QEMU with this memory is there, and its monitor may not answer before somebody serves what it waits for. May come again, with
  // the same or another one.
  virtual void memory_up(const protocol::WorkerGuestUp& up, guest::MissingPages memory) = 0;
  // Until detach(), `live` is there. Throws kUnsupported and kInvalid: it cannot be attached.
  virtual void guest_up(guest::LiveGuest& live, const protocol::WorkerGuestUp& up) = 0;
  // What waits for a page is served on.
  virtual void detach() = 0;
  // After it: that QEMU is no more.
  virtual void guest_down() = 0;
  // The engine is about to let go of a guest that runs on.
  virtual void leave() = 0;
  // The guest is to be known no longer: what is kept of it goes.
  virtual void forget() = 0;
  // The worker ends in good order.
  virtual void finish() noexcept = 0;

  // Something to do that nobody asks for; max(): nothing.
  virtual Clock::time_point due() const = 0;
  virtual void tick() = 0;

  // While it is, nothing else reads the guest's memory but through QEMU.
  virtual bool has_memory_to_come() const = 0;
  // The guest is between two moments: nobody else may stop it, or let it run.
  virtual bool is_between_moments() const = 0;
  // What a layer asks for. false: that action is another's. `before_ns`: since 1970; 0: now.
  virtual bool act(const std::string& layer, const std::string& action, const std::string& reason, std::uint64_t before_ns) = 0;
  virtual void add_status(protocol::GuestStatus& out) const = 0;
};

}  // namespace mhv::engine
