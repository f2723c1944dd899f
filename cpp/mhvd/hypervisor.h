// What a guest of mhvd asks of its host. attach.h implements it with libvirt and the broker; tests with less.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/process.h"
#include "mhv.pb.h"

namespace mhv::mhvd {

struct Domain {
  std::string uuid;
  std::string name;
  std::optional<ProcessId> process;  // of its QEMU, when it runs
};

// A running QEMU, ready to be handed to a worker.
struct Attachment {
  protocol::WorkerGuestUp up;
  std::vector<Fd> fds;  // in the order of `up`'s numbers
  ProcessId process;
  Fd pidfd;
  bool own_monitor = false;
  std::shared_ptr<void> monitor;                                  // kept as long as the worker uses the monitor
  std::vector<std::pair<std::uint64_t, std::uint64_t>> mappings;  // of the blocks, in QEMU: begin and end; of private memory: 0, 0
};

// Thread-safe. Everything throws mhv::Error.
class Hypervisor {
 public:
  virtual ~Hypervisor() = default;
  virtual Domain find(const std::string& name_or_uuid) = 0;  // kNotFound
  // Throws kUnsupported for what the domain's definition, live or not, already shows to be refused.
  virtual void check(const Domain& domain, const protocol::ServiceOptions& options) = 0;
  // Refusals are kUnsupported; what may pass (a QEMU that is just starting, a broker that is away) is kUnavailable, kBusy or kGone.
  virtual Attachment attach(const Domain& domain, const protocol::ServiceOptions& options) = 0;
  // Only the memory of a QEMU that was attached before, without asking QEMU anything: its main thread may wait for a page that only
  // a worker can bring. nullopt: it was not attached, or not with tracking.
  virtual std::optional<Attachment> attach_memory(const Domain& domain) = 0;
  // The file behind one of an Attachment's mappings, for reading.
  virtual Fd open_memory(const ProcessId& process, std::pair<std::uint64_t, std::uint64_t> mapping) = 0;
  // Starts a shut-off guest without letting it run; kNotFound when libvirt has no definition of it.
  virtual void start_paused(const Domain& domain) = 0;
  virtual void destroy(const Domain& domain) noexcept = 0;
  // Gives the clock of a guest on KVM back what it lost since `since` (broker/inject.h), `lost_max` at most; returns the moment to
  // name the next time.
  virtual protocol::ClockMoment keep_clock(const ProcessId& process, const protocol::ClockMoment& since,
                                           std::chrono::nanoseconds lost_max) = 0;
  // The taps of the guest's NICs, in their order. kUnsupported: one of them has none; a guest that does not run is looked at as far.
  virtual std::vector<std::string> taps(const Domain& domain) = 0;
  // The engine's two ends at a tap (net/tap_swap.h): of what the guest sends, and of what it is sent. kUnavailable: mhv-tapper is away.
  virtual std::vector<Fd> interpose(const ProcessId& process, const std::string& tap) = 0;
  virtual void undo_interpose(const ProcessId& process, const std::string& tap) = 0;  // the process may have ended
  // The worker has set up written-page tracking in the QEMU last attached: the next attach goes on with it.
  virtual void tracking_is_on(const std::string& uuid) = 0;
  // The worker has ended it there.
  virtual void tracking_is_off(const std::string& uuid) = 0;
};

}  // namespace mhv::mhvd
