// Attaching to a running stock QEMU: who it is, its monitor, its RAM, a userfaultfd in it, its disks.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "client/broker_client.h"
#include "guest/qmp.h"
#include "guest/ram.h"
#include "mhvd/config.h"
#include "mhvd/domain_xml.h"
#include "mhvd/hypervisor.h"
#include "mhvd/libvirt_session.h"

namespace mhv::mhvd {

// Where one RAM block is read and written.
struct BlockPlan {
  guest::BlockListing block;
  bool shared = false;  // the file behind the mapping [map_start, map_end); else /proc/PID/mem
  std::uint64_t map_start = 0, map_end = 0;
  std::uint64_t fd_offset = 0;
};
// Throws kUnsupported for blocks on huge pages, kInvalid for a block that is not mapped. Pure.
std::vector<BlockPlan> plan_blocks(const std::vector<guest::BlockListing>& blocks, const std::vector<guest::MapsEntry>& maps);

// The disks with the block nodes that QEMU's `query-block` names for their devices. Pure.
std::vector<protocol::Disk> resolve_disks(const std::vector<DomainDisk>& disks, const nlohmann::json& query_block);

// Thread-safe: keeps nothing of a guest but its userfaultfd record in the run folder. Session, broker and tapper outlive it.
class HostHypervisor : public Hypervisor {
 public:
  HostHypervisor(const Config& config, LibvirtSession& session, BrokerClient& broker, TapperClient& tapper)
      : config_(config), session_(session), broker_(broker), tapper_(tapper) {}

  Domain find(const std::string& name_or_uuid) override;
  void check(const Domain& domain, const protocol::ServiceOptions& options) override;
  Attachment attach(const Domain& domain, const protocol::ServiceOptions& options) override;
  std::optional<Attachment> attach_memory(const Domain& domain) override;
  Fd open_memory(const ProcessId& process, std::pair<std::uint64_t, std::uint64_t> mapping) override;
  void start_paused(const Domain& domain) override;
  void destroy(const Domain& domain) noexcept override;
  protocol::ClockMoment keep_clock(const ProcessId& process, const protocol::ClockMoment& since,
                                   std::chrono::nanoseconds lost_max) override;
  std::vector<std::string> taps(const Domain& domain) override;
  std::vector<Fd> interpose(const ProcessId& process, const std::string& tap) override;
  void undo_interpose(const ProcessId& process, const std::string& tap) override;
  void tracking_is_on(const std::string& uuid) override;
  void tracking_is_off(const std::string& uuid) override;

 private:
  guest::Qmp open_monitor(const Domain& domain, const DomainFacts& facts, Attachment& out);
  Fd userfaultfd(const Domain& domain, guest::Qmp& qmp, bool& is_new);
  void set_tracking(const std::string& uuid, bool on);
  void add_blocks(const Domain& domain, const std::string& text, const BrokerClient::GuestFds& fds, Attachment& out);

  const Config& config_;
  LibvirtSession& session_;
  BrokerClient& broker_;
  TapperClient& tapper_;
};

}  // namespace mhv::mhvd
