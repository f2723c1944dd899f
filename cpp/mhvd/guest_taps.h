// The taps of one guest that the engine stands at, by mhv-tapper: while one of its layers claims its network, or holds it.
//
// INVARIANT: a tap that may be swapped is in the guest's record, with the QEMU that it is of, from before it is swapped until it no longer
// is. So whoever finds the record, after any end of mhvd, can put back what is of a QEMU that has ended, or of a guest that has no such
// layer any more.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "mhvd/hypervisor.h"
#include "mhvd/layer_registry.h"

namespace mhv::mhvd {

// <run-dir>/guests/<uuid>.taps: "PID START_TIME\n", then a tap's name a line.
struct TapRecord {
  ProcessId process;
  std::vector<std::string> taps;
  friend bool operator==(const TapRecord&, const TapRecord&) = default;
};
std::optional<TapRecord> parse_tap_record(std::string_view text);  // nullopt: not one. Pure.

// One thread at a time.
class GuestTaps {
 public:
  // What the worker is to be told, and the descriptors beside it.
  struct Change {
    protocol::WorkerTaps message;
    std::vector<Fd> fds;
    bool empty() const { return message.added().empty() && message.removed().empty(); }
  };

  // `hypervisor` outlives it.
  GuestTaps(Hypervisor& hypervisor, std::string record);

  // The engine at each of the guest's NICs, and at none that it no longer has. What the worker has already is not asked for again. Throws
  // what Hypervisor throws; what was done until then is asked for again by the next call.
  Change interpose(const Domain& domain);
  // The same with nobody at them: nothing passes, and no process has to live for that. The worker has left those that it had.
  void close(const Domain& domain);
  // No worker has them any more: it ended, or was told to leave the guest.
  void taken_back() { handed_over_.clear(); }
  bool at_worker() const { return !handed_over_.empty(); }
  // The old way for all of them. Throws, with what is left still in the record.
  void undo();

  bool any() const { return !record_.taps.empty(); }
  const std::vector<std::string>& names() const { return record_.taps; }
  const ProcessId& process() const { return record_.process; }  // whose they are

 private:
  Change settle(const Domain& domain, std::vector<std::string>& taps);
  void undo(const std::string& tap);
  void save();

  Hypervisor& hypervisor_;
  const std::string path_;
  TapRecord record_;
  std::set<std::string> handed_over_;  // to the worker
  std::set<std::string> closed_;       // swapped, and nobody is at them
};

// One of these services is a layer that claims the network. A package that was taken away meanwhile claims nothing any more.
bool claims_network(const LayerRegistry& registry, const protocol::ServiceOptions& options);

// What guests left that are known no more. `folder`: of the records; `known`: their UUIDs.
void undo_strangers(Hypervisor& hypervisor, const std::string& folder, const std::set<std::string>& known);

}  // namespace mhv::mhvd
