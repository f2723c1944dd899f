// One running QEMU, as the services of the engine use it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "guest/device_saver.h"
#include "guest/disk_changes.h"
#include "guest/machine.h"
#include "guest/qmp.h"
#include "guest/ram.h"
#include "guest/tracker.h"
#include "guest/written_pages.h"

namespace mhv::guest {

struct Disk {
  DiskNode node;
  bool read_only = false;
  // Only qcow2 holds snapshots of its own; read-only disks need none.
  bool can_snapshot() const { return !read_only && node.format == "qcow2"; }
};

// Members are destroyed from the last to the first: the tracker, the machine and the saver use what stands above them.
// One thread at a time.
struct LiveGuest {
  LiveGuest(Ram ram_, Qmp qmp_, Fd uffd, Fd pagemap, bool fresh, bool kvm)
      : ram(std::move(ram_)),
        qmp(std::move(qmp_)),
        machine(qmp),
        disk_changes(qmp),
        saver(qmp),
        tracker(std::move(uffd), std::move(pagemap), ram, fresh, kvm),
        written(tracker) {
    qmp.on_event([this](const Qmp::Json& event) { note(event); });
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
    const auto same = [](const BlockListing& now, const RamBlock& then) {
      return now.name == then.name && now.host_virt == then.host.value && now.used_bytes == then.bytes && now.read_only == then.read_only;
    };
    const auto now = parse_ramblock_listing(qmp.hmp("info ramblock"));
    if (!std::equal(now.begin(), now.end(), ram.blocks().begin(), ram.blocks().end(), same)) {
      throw Error(Code::kUnavailable, "the guest's memory blocks changed (a device came or went); it is attached again", "try again");
    }
  }

  Ram ram;
  Qmp qmp;
  Machine machine;
  DiskChanges disk_changes;
  DeviceSaver saver;
  Tracker tracker;
  WrittenPages written;
  std::vector<Disk> disks;
  std::string machine_name;  // canonical type
  std::string domain_xml;

 private:
  void note(const Qmp::Json& event) {
    const std::string name = event.value("event", "");
    gave_memory_back_ |= name == "BALLOON_CHANGE";
    // A restore in place resets the machine before it loads it.
    was_reset_ |= name == "RESET" && event.value("data", Qmp::Json::object()).value("reason", "") != "snapshot-load";
  }

  bool gave_memory_back_ = false;
  bool was_reset_ = false;
};

}  // namespace mhv::guest
