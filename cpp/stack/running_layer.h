// The engine's end of one layer: what it is told and asked, and what it may say.
//
// INVARIANT: a guest never waits for a layer. What does not fit into its ring is not sent, and what it does not answer in time has
// failed. A page that was written is named to a layer that claimed to know by the next epoch that the layer gets: epochs that it was
// too slow for are joined. Who sends waits for room, if at all, in a way that lets others send.
#pragma once

#include <chrono>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/error.h"
#include "ring/ring.h"
#include "stack/packet_book.h"

namespace mhv::stack {

// What one layer was granted, of what its manifest claims.
struct Charter {
  std::string name;
  bool memory = false;         // read
  bool written_pages = false;  // told with each epoch
  bool vcpus = false;          // told with each epoch
  bool sees_events = false, sends_events = false;
  NetworkClaim network = NetworkClaim::kNone;
  bool fail_closed = false;       // without its verdict a packet goes nowhere
  std::set<std::string> actions;  // that it may ask for
  std::chrono::milliseconds epoch_every{1000};
  std::chrono::milliseconds budget{1000};      // for an epoch; beyond it the layer is late, and at ten times of it, it hangs
  std::chrono::milliseconds ready_in{30'000};  // from its start on
};

// A guest's memory by guest-physical address.
class GuestMemory {
 public:
  virtual ~GuestMemory() = default;
  // False: not all of it is RAM. Thread-safe.
  virtual bool read(std::uint64_t start, std::span<std::byte> out) const = 0;
};

struct EpochFacts {
  std::uint64_t number = 0;
  std::uint64_t time_ns = 0;  // CLOCK_REALTIME
  std::span<const ring::Vcpu> vcpus;
  std::span<const ring::PageRange> written;
  bool written_all = false;
};

// Thread-safe. Handlers run on its own thread, and must not destroy it.
class RunningLayer {
 public:
  struct Alert {
    std::string severity, title, detail;  // detail: JSON
  };
  struct Wish {
    std::string action, reason;
    std::uint64_t before_ns = 0;  // of a rollback: to the newest checkpoint from before then; 0: to the newest
  };
  struct Handlers {
    std::function<void(const std::string& version)> on_ready;
    std::function<void(Alert)> on_alert;
    std::function<void(const std::string& event)> on_event;  // JSON
    std::function<void(const Wish& wish)> on_ask;
    std::function<void(PacketVerdict)> on_verdict;
    // Once: it broke the protocol, or hangs. Nothing of it is heard any more.
    std::function<void(const std::string& why)> on_end;
  };
  // The JSON of its result, or why there is none.
  using AnswerFn = std::function<void(const std::string* result, const Error* error)>;
  struct Counts {
    bool ready = false;
    std::uint64_t epochs = 0, late = 0, alerts = 0, dropped = 0;
  };

  // `hello`: the text of kHello.
  RunningLayer(ring::Ends ends, Charter charter, const std::string& hello, std::shared_ptr<const GuestMemory> memory, Handlers handlers);
  ~RunningLayer();
  RunningLayer(const RunningLayer&) = delete;
  RunningLayer& operator=(const RunningLayer&) = delete;

  void epoch(const EpochFacts& facts);
  // `answer` is called once, also when the layer ends before it answers; on the layer's thread, or on this one.
  void call(const std::string& method, const std::string& arguments, std::chrono::steady_clock::time_point deadline, AnswerFn answer);
  void event(const std::string& event);  // JSON
  // False: it is not ready, has ended, or has no room: its policy decides. Waits for nothing.
  bool packet(const PacketToken& packet, std::uint32_t nic, ring::Direction direction, std::span<const std::byte> frame);
  const Charter& charter() const { return charter_; }
  Counts counts() const;

 private:
  using Clock = std::chrono::steady_clock;
  // So many a second, and as many at once.
  class Allowance {
   public:
    explicit Allowance(double per_second) : per_second_(per_second), left_(per_second) {}
    bool take();

   private:
    double per_second_, left_;
    Clock::time_point filled_ = Clock::now();
  };
  struct Call {
    Clock::time_point deadline;
    AnswerFn answer;
  };

  void run();
  bool serve();                           // true: something was there
  bool wait(Clock::duration most) const;  // for the layer; true: it is over
  Clock::time_point next_deadline();
  void look_at_the_clock();
  void handle(const ring::Message& message);
  void handle_text(const ring::Message& message);
  void ready(const nlohmann::ordered_json& said);
  void alert(const nlohmann::ordered_json& said);
  void ask(const nlohmann::ordered_json& said);
  void answer(std::uint64_t id, const nlohmann::ordered_json& said);
  void read(const ring::Message& message);
  void epoch_done(const ring::Message& message);
  void verdict(const ring::Message& message);
  bool send(ring::Type type, std::uint64_t id, std::span<const std::byte> payload, std::uint16_t flags = 0);
  bool send_in_time(ring::Type type, std::uint64_t id, std::span<const std::byte> payload, std::uint16_t flags = 0);
  bool send_text(ring::Type type, std::uint64_t id, std::string_view text);
  void end(const std::string& why);

  const Charter charter_;
  const std::shared_ptr<const GuestMemory> memory_;
  const Handlers handlers_;
  ring::Channel channel_;
  Fd stop_;
  ring::TextParts parts_;  // of the layer's thread, as the allowances are
  Allowance alerts_{100}, events_{1000}, asks_{1}, logs_{20};

  std::mutex sending_;        // one at a time in the channel
  mutable std::mutex mutex_;  // guards what follows; never held while anything is called
  Counts counts_;
  std::uint64_t epoch_ = 0;  // that the layer has not finished; 0: none
  Clock::time_point epoch_sent_;
  bool epoch_late_ = false;
  bool missed_ = true;  // an epoch was not sent, or none was
  std::uint64_t next_call_ = 1;
  std::map<std::uint64_t, Call> calls_;
  PacketBook packets_;
  std::optional<Error> lied_;  // in its indices, as whoever sent noticed
  bool ended_ = false;

  std::thread thread_;
};

}  // namespace mhv::stack
