// One running QEMU, as the checkpoint service uses it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "checkpoint/disk_area.h"
#include "guest/device_saver.h"
#include "guest/disk_changes.h"
#include "guest/machine.h"
#include "guest/qmp.h"
#include "guest/ram.h"
#include "guest/tracker.h"
#include "store/store.h"

namespace mhv::checkpoint {

struct Disk {
  guest::DiskNode node;
  bool read_only = false;
  // Only qcow2 holds snapshots of its own; read-only disks need none.
  bool can_snapshot() const { return !read_only && node.format == "qcow2"; }
};

// Members are destroyed from the last to the first: the tracker, the machine and the saver use what stands above them.
// One thread at a time.
struct LiveGuest {
  LiveGuest(guest::Ram ram_, guest::Qmp qmp_, Fd uffd, Fd pagemap, bool fresh, bool kvm)
      : ram(std::move(ram_)),
        qmp(std::move(qmp_)),
        machine(qmp),
        disk_changes(qmp),
        saver(qmp),
        tracker(std::move(uffd), std::move(pagemap), ram, fresh, kvm) {
    qmp.on_event([this](const guest::Qmp::Json& event) { note(event); });
    if (!machine.has_balloon()) tracker.pages_stay();
    gave_memory_back_ |= !fresh && machine.balloon_inflated();  // perhaps while nobody listened
  }

  // Since the last call. What the tracker says then does not suffice (its LIMIT).
  bool gave_memory_back() {
    qmp.pump();
    return std::exchange(gave_memory_back_, false);
  }

  // Since the last call: another kernel starts, or the same one from the beginning.
  bool was_reset() {
    qmp.pump();
    return std::exchange(was_reset_, false);
  }

  // Throws kUnavailable when devices or memory came or went since the attach: page numbers mean something else then.
  void check_layout() {
    const auto same = [](const guest::BlockListing& now, const guest::RamBlock& then) {
      return now.name == then.name && now.host_virt == then.host.value && now.used_bytes == then.bytes && now.read_only == then.read_only;
    };
    const auto now = guest::parse_ramblock_listing(qmp.hmp("info ramblock"));
    if (!std::equal(now.begin(), now.end(), ram.blocks().begin(), ram.blocks().end(), same)) {
      throw Error(Code::kUnavailable, "the guest's memory blocks changed (a device came or went); it is attached again", "try again");
    }
  }

  guest::Ram ram;
  guest::Qmp qmp;
  guest::Machine machine;
  guest::DiskChanges disk_changes;
  guest::DeviceSaver saver;
  guest::Tracker tracker;
  std::vector<Disk> disks;
  bool snapshot_disks = true;  // false: the policy is "none"
  std::string machine_name;    // canonical type
  std::string domain_xml;

  // As a checkpoint of this guest names them.
  std::vector<store::BlockInfo> blocks() const {
    std::vector<store::BlockInfo> out;
    for (const guest::RamBlock& block : ram.blocks()) out.push_back({block.name, block.bytes, block.read_only});
    out.push_back(disk_area());
    return out;
  }

 private:
  void note(const guest::Qmp::Json& event) {
    const std::string name = event.value("event", "");
    gave_memory_back_ |= name == "BALLOON_CHANGE";
    // A restore in place resets the machine before it loads it.
    was_reset_ |= name == "RESET" && event.value("data", guest::Qmp::Json::object()).value("reason", "") != "snapshot-load";
  }

  bool gave_memory_back_ = false;
  bool was_reset_ = false;
};

}  // namespace mhv::checkpoint
