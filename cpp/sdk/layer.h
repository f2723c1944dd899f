// libmhv-layer: a service hypervisor of one's own. Derive from Layer, override what is of interest, and let main() call run().
//
// All handlers run on the thread that called run(), one at a time, and everything here belongs to that thread. What a handler throws
// becomes the error that answers a request, or a line in the engine's log; the layer goes on.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "ring/abi.h"
#include "sdk/guest.h"

namespace mhv::sdk {

using Json = nlohmann::ordered_json;  // an answer keeps the order of its keys
using ring::Decision;
using ring::Direction;

// Of a moment of the guest. What it points to lasts until the handler returns; guest() knows it until the next epoch.
struct Epoch {
  std::uint64_t number = 0;
  std::uint64_t time_ns = 0;                 // CLOCK_REALTIME
  bool paused = false;                       // the guest stands still until the handler returns, or the budget is over
  std::span<const ring::Vcpu> vcpus;         // empty: not claimed
  std::span<const ring::PageRange> written;  // since the last epoch; empty: nothing was, or not claimed
  bool written_all = false;                  // too much to name: take all of memory as written
};

struct Packet {
  std::uint64_t number = 0;
  std::uint32_t nic = 0;
  Direction direction{};
  std::span<const std::byte> bytes;    // an Ethernet frame
  std::vector<std::byte> replacement;  // for Decision::kReplace
};

enum class Severity { kInfo, kWarning, kCritical };
enum class Action { kCheckpoint, kPause, kHold, kRelease, kRollback, kStop };

class Engine;

class Layer {
 public:
  // `version` is this program's own, for people.
  explicit Layer(std::string version = "0");
  virtual ~Layer();
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;

  // Once, before anything else. What it throws ends the program: without its configuration a layer is of no use.
  virtual void on_start(Guest& guest, const Json& configuration);
  virtual void on_epoch(const Epoch& epoch);
  // A packet that is held is decided later, by decide().
  virtual Decision on_packet(Packet& packet);
  // Of another layer.
  virtual void on_event(const Json& event);
  // The result. Throw mhv::Error to answer an error.
  virtual Json on_request(const std::string& method, const Json& arguments);
  // Once, after everything else.
  virtual void on_stop();

  const std::string& version() const { return version_; }

  // From on_start() on. What was not claimed in the manifest ends the layer. They throw kUnavailable: the engine does not read,
  // kInvalid: that is too long.
  Guest& guest() const;
  void raise_alert(Severity severity, const std::string& title, const Json& detail = Json::object());
  void send_event(const Json& event);  // an object with a "kind"
  // `before_ns`, of a rollback: to the newest checkpoint from before that time (CLOCK_REALTIME); 0: to the newest.
  void ask(Action action, const std::string& reason, std::uint64_t before_ns = 0);
  void log(std::string_view text);
  void decide(std::uint64_t packet, Decision decision);

 private:
  friend class Runtime;
  Engine& engine() const;

  const std::string version_;
  Engine* engine_ = nullptr;
  Guest* guest_ = nullptr;
};

// The whole life of a layer. Its channel and memory are the descriptors that the engine started it with, or in a service VM
// --channel FILE and --memory FILE (may be repeated). Returns what main() is to return.
int run(Layer& layer, int argc, char** argv);

}  // namespace mhv::sdk
