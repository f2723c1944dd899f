#include "mhvd/attach.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "base/error.h"
#include "mhvd/libvirt_monitor.h"
#include "mhvd/uffd_record.h"

namespace mhv::mhvd {
namespace {

using Json = nlohmann::json;
using namespace std::chrono_literals;

constexpr auto kLibvirtTimeout = 5s;

std::string xml_of(virDomainPtr domain, unsigned flags) {
  char* text = virDomainGetXMLDesc(domain, flags);
  if (text == nullptr) throw_libvirt("cannot read the domain's XML");
  std::string out = text;
  std::free(text);
  return out;
}

std::optional<ProcessId> qemu_of(const Config& config, const std::string& name) {
  const std::string path = config.libvirt_run_dir + "/qemu/" + name + ".pid";
  try {
    return identify_process(std::atoi(read_file(path, 64).c_str()));
  } catch (const Error& error) {
    if (error.code() == Code::kNotFound) return std::nullopt;  // it ended, or has not come so far
    throw;
  }
}

// From the descriptor itself: opening /proc/PID/maps again is not permitted to this process.
std::string read_maps(const Fd& maps) {
  constexpr std::size_t kMapsBytesMax = 16u << 20;
  std::string text;
  std::array<char, 65536> buffer;
  for (;;) {
    const ssize_t n = ::read(maps.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("cannot read QEMU's mappings");
    if (n == 0) return text;
    text.append(buffer.data(), static_cast<std::size_t>(n));
    if (text.size() > kMapsBytesMax) throw Error(Code::kUnsupported, "QEMU has too many mappings");
  }
}

std::uint32_t push(std::vector<Fd>& fds, Fd fd) {
  fds.push_back(std::move(fd));
  return static_cast<std::uint32_t>(fds.size() - 1);
}

void check_facts(const DomainFacts& facts, const protocol::ServiceOptions& options) {
  refuse_unsupported(facts);
  const auto& services = options.services();
  if (std::ranges::find(services, "checkpoint") != services.end()) check_disk_policy(facts.disks, options.checkpoint_disks());
}

// Migrating QEMUs are left alone: their memory is not theirs yet, or no longer.
void check_run_state(guest::Qmp& qmp) {
  const std::string state = qmp.call("query-status").value("status", "");
  if (state == "inmigrate" || state == "postmigrate" || state == "finish-migrate") {
    throw Error(Code::kBusy, "the guest is being migrated (" + state + ")", "it is attached when the migration has ended");
  }
}

}  // namespace

std::vector<BlockPlan> plan_blocks(const std::vector<guest::BlockListing>& blocks, const std::vector<guest::MapsEntry>& maps) {
  std::vector<BlockPlan> out;
  for (const guest::BlockListing& block : blocks) {
    const auto first = std::find_if(maps.begin(), maps.end(),
                                    [&](const guest::MapsEntry& m) { return m.start <= block.host_virt && block.host_virt < m.end; });
    if (first == maps.end())
      throw Error(Code::kInvalid, "RAM block " + block.name + " is not mapped in QEMU", "try again: the guest changed meanwhile");
    if (first->path.find("hugepage") != std::string::npos || first->path.find("/dev/hugepages") == 0) {
      throw Error(Code::kUnsupported, "RAM block " + block.name + " is backed by huge pages (" + first->path + ")",
                  "remove hw:mem_page_size from the flavor");
    }
    // A block may lie over several neighbouring mappings of one file (protections differ).
    bool whole = first->shared && !first->path.empty();
    std::uint64_t end = first->end;
    for (auto next = first + 1; whole && end < block.host_virt + block.used_bytes; ++next) {
      whole = next != maps.end() && next->start == end && next->shared && next->path == first->path &&
              next->offset - first->offset == next->start - first->start;
      if (whole) end = next->end;
    }
    BlockPlan plan{block, whole, first->start, first->end, block.host_virt};
    if (whole) plan.fd_offset = first->offset + (block.host_virt - first->start);
    out.push_back(std::move(plan));
  }
  return out;
}

std::vector<protocol::Disk> resolve_disks(const std::vector<DomainDisk>& disks, const Json& query_block) {
  std::vector<protocol::Disk> out;
  for (const DomainDisk& disk : disks) {
    protocol::Disk entry;
    entry.set_target(disk.target);
    entry.set_path(disk.source);
    entry.set_format(disk.format);
    entry.set_read_only(disk.read_only);
    for (const Json& device : query_block) {
      const std::string qdev = device.value("qdev", "");
      const bool same = !disk.alias.empty() && ((qdev + "/").find("/" + disk.alias + "/") != std::string::npos || qdev == disk.alias);
      if (!same || !device.contains("inserted")) continue;
      entry.set_node(device["inserted"].value("node-name", ""));
    }
    if (!entry.node().empty() || !disk.read_only) out.push_back(std::move(entry));
  }
  return out;
}

Domain HostHypervisor::find(const std::string& name_or_uuid) {
  const ConnectionPtr connection = session_.connection(kLibvirtTimeout);
  const DomainPtr domain = session_.find(connection, name_or_uuid);
  Domain out{uuid_of(domain.get()), name_of(domain.get()), std::nullopt};
  const int active = virDomainIsActive(domain.get());
  if (active < 0) throw_libvirt("cannot ask libvirt for guest " + out.name);
  if (active == 1) out.process = qemu_of(config_, out.name);
  return out;
}

guest::Qmp HostHypervisor::open_monitor(const Domain& domain, const DomainFacts& facts, Attachment& out) {
  if (!facts.own_monitor.empty()) {
    out.own_monitor = true;
    return guest::Qmp(broker_.connect_monitor(facts.own_monitor), false);
  }
  auto bridge = std::make_shared<LibvirtBridge>(session_, domain.uuid);
  guest::Qmp qmp(bridge->take_worker_end(), true);
  out.monitor = std::move(bridge);
  return qmp;
}

Fd HostHypervisor::userfaultfd(const Domain& domain, guest::Qmp& qmp, bool& is_new) {
  const std::string path = config_.uffd_record_path(domain.uuid);
  const auto record = load_uffd_record(path);
  if (record && record->process == *domain.process) {
    is_new = !record->tracking;
    return broker_.take_uffd(domain.process->pid, domain.process->start_time, record->number);
  }
  const Fd device = broker_.uffd_device();
  const std::array<int, 1> fds{device.get()};
  const Json added = qmp.call("add-fd", {{"opaque", "nova-mhv"}}, fds);
  const Json which{{"fdset-id", added.at("fdset-id")}, {"fd", added.at("fd")}};
  try {
    auto injected = broker_.inject_uffd(domain.process->pid, domain.process->start_time, added.at("fd").get<int>());
    save_uffd_record(path, {*domain.process, injected.number, false});
    qmp.call("remove-fd", which);
    spdlog::debug("guest {} ({}): userfaultfd {} in QEMU after {} stops", domain.name, domain.uuid, injected.number, injected.attempts);
    is_new = true;
    return std::move(injected.uffd);
  } catch (const Error&) {
    try {
      qmp.call("remove-fd", which);
    } catch (const Error& error) {
      spdlog::debug("guest {} ({}): {}", domain.name, domain.uuid, error.what());
    }
    throw;
  }
}

void HostHypervisor::add_blocks(const Domain& domain, const std::string& text, const BrokerClient::GuestFds& fds, Attachment& out) {
  const auto listing = guest::parse_ramblock_listing(text);
  const auto maps = guest::parse_maps(read_maps(fds.maps));
  std::optional<std::uint32_t> mem;
  for (const BlockPlan& plan : plan_blocks(listing, maps)) {
    protocol::GuestBlock& block = *out.up.add_blocks();
    block.set_name(plan.block.name);
    block.set_host_virt(plan.block.host_virt);
    block.set_bytes(plan.block.used_bytes);
    block.set_read_only(plan.block.read_only);
    block.set_shared(plan.shared);
    block.set_fd_offset(plan.fd_offset);
    out.mappings.emplace_back(plan.shared ? plan.map_start : 0, plan.shared ? plan.map_end : 0);
    if (plan.shared) {
      block.set_fd(push(out.fds, broker_.open_mapping(domain.process->pid, domain.process->start_time, plan.map_start, plan.map_end)));
    } else {
      if (!mem) mem = push(out.fds, fds.mem.duplicate());
      block.set_fd(*mem);
    }
  }
}

void HostHypervisor::check(const Domain& domain, const protocol::ServiceOptions& options) {
  const ConnectionPtr connection = session_.connection(kLibvirtTimeout);
  const DomainPtr handle = session_.find(connection, domain.uuid);
  check_facts(parse_domain_xml(xml_of(handle.get(), 0)), options);
}

Attachment HostHypervisor::attach(const Domain& domain, const protocol::ServiceOptions& options) {
  if (!domain.process) throw Error(Code::kUnavailable, "the guest's QEMU is not there");
  const ConnectionPtr connection = session_.connection(kLibvirtTimeout);
  const DomainPtr handle = session_.find(connection, domain.uuid);
  const std::string driver = virConnectGetType(connection.get());
  if (driver != "QEMU") throw Error(Code::kUnsupported, "libvirt's driver is " + driver, "use a qemu:///system connection");

  const DomainFacts facts = parse_domain_xml(xml_of(handle.get(), 0));
  check_facts(facts, options);

  Attachment out;
  out.process = *domain.process;
  BrokerClient::GuestFds fds = broker_.open_guest(domain.process->pid, domain.process->start_time);
  guest::Qmp qmp = open_monitor(domain, facts, out);
  check_run_state(qmp);
  out.up.set_kvm(qmp.call("query-kvm").value("enabled", false));
  const std::string listing = qmp.hmp("info ramblock");
  add_blocks(domain, listing, fds, out);
  // As of its first attach, which is when a fill begins: devices that come later have no part in it.
  const std::string record = config_.ramblock_record_path(domain.uuid);
  if (!load_ramblock_record(record, *domain.process)) save_ramblock_record(record, *domain.process, listing);
  for (protocol::Disk& disk : resolve_disks(facts.disks, qmp.call("query-block"))) *out.up.add_disks() = std::move(disk);
  bool is_new = true;
  out.up.set_uffd_fd(push(out.fds, userfaultfd(domain, qmp, is_new)));
  out.up.set_uffd_is_new(is_new);
  out.up.set_pagemap_fd(push(out.fds, std::move(fds.pagemap)));
  out.up.set_machine(facts.machine);
  out.up.set_domain_xml(xml_of(handle.get(), VIR_DOMAIN_XML_MIGRATABLE | VIR_DOMAIN_XML_SECURE));
  out.up.set_qemu_pid(domain.process->pid);
  out.up.set_qemu_start_time(domain.process->start_time);
  auto [socket, pending] = std::move(qmp).release();
  out.up.set_qmp_fd(push(out.fds, std::move(socket)));
  out.up.set_qmp_pending(std::move(pending));
  out.pidfd = std::move(fds.pidfd);
  return out;
}

std::optional<Attachment> HostHypervisor::attach_memory(const Domain& domain) {
  const auto record = load_uffd_record(config_.uffd_record_path(domain.uuid));
  if (!domain.process || !record || record->process != *domain.process || !record->tracking) return std::nullopt;
  const auto listing = load_ramblock_record(config_.ramblock_record_path(domain.uuid), *domain.process);
  if (!listing) return std::nullopt;
  Attachment out;
  out.process = *domain.process;
  BrokerClient::GuestFds fds = broker_.open_guest(domain.process->pid, domain.process->start_time);
  add_blocks(domain, *listing, fds, out);
  out.up.set_uffd_fd(push(out.fds, broker_.take_uffd(domain.process->pid, domain.process->start_time, record->number)));
  out.up.set_pagemap_fd(push(out.fds, std::move(fds.pagemap)));
  out.up.set_qemu_pid(domain.process->pid);
  out.up.set_qemu_start_time(domain.process->start_time);
  return out;
}

Fd HostHypervisor::open_memory(const ProcessId& process, std::pair<std::uint64_t, std::uint64_t> mapping) {
  return broker_.open_mapping(process.pid, process.start_time, mapping.first, mapping.second, true);
}

std::vector<std::string> HostHypervisor::taps(const Domain& domain) {
  const ConnectionPtr connection = session_.connection(kLibvirtTimeout);
  return taps_of(parse_domain_xml(xml_of(session_.find(connection, domain.uuid).get(), 0)).nics);
}

std::vector<Fd> HostHypervisor::interpose(const ProcessId& process, const std::string& tap) {
  return tapper_.interpose(process.pid, process.start_time, tap, true);
}

void HostHypervisor::undo_interpose(const ProcessId& process, const std::string& tap) {
  tapper_.undo_interpose(process.pid, process.start_time, tap);
}

protocol::ClockMoment HostHypervisor::keep_clock(const ProcessId& process, const protocol::ClockMoment& since,
                                                 std::chrono::nanoseconds lost_max) {
  const auto kept = broker_.keep_clock(process.pid, process.start_time, since, static_cast<std::uint64_t>(lost_max.count()));
  spdlog::debug("QEMU {}: its guest's clock was {} us behind", process.pid, kept.given_ns() / 1000);
  return kept.since();
}

void HostHypervisor::set_tracking(const std::string& uuid, bool on) {
  const std::string path = config_.uffd_record_path(uuid);
  auto record = load_uffd_record(path);
  if (!record || record->tracking == on) return;
  record->tracking = on;
  save_uffd_record(path, *record);
}

void HostHypervisor::tracking_is_on(const std::string& uuid) { set_tracking(uuid, true); }

// QEMU keeps the descriptor: the next attach takes it again, and registers anew.
void HostHypervisor::tracking_is_off(const std::string& uuid) { set_tracking(uuid, false); }

}  // namespace mhv::mhvd
