#include "guest/machine.h"

#include <algorithm>

#include "base/error.h"
#include "base/fd.h"
#include "guest/fdset.h"
#include "guest/job.h"
#include "guest/stream.h"

namespace mhv::guest {
namespace {

using Json = Qmp::Json;

constexpr std::chrono::seconds kStopTimeout{120};  // `stop` drains and flushes the guest's disks
constexpr std::chrono::seconds kLoadTimeout{120};
constexpr const char* kLoadOpaque = "nova-mhv load";
constexpr const char* kLoadNode = "mhv-load";
constexpr const char* kLoadJob = "mhv-load";

// Whether there is such a node, and it has no such snapshot.
bool lacks_snapshot(Qmp& qmp, const std::string& node, const std::string& tag) {
  const Json nodes = qmp.call("query-named-block-nodes");
  for (const auto& entry : nodes) {
    if (text_of(entry, "node-name") != node) continue;
    if (!entry.contains("image") || !entry["image"].contains("snapshots")) return true;
    const Json& snapshots = entry["image"]["snapshots"];
    return std::none_of(snapshots.begin(), snapshots.end(), [&](const Json& s) { return text_of(s, "name") == tag; });
  }
  return false;
}

}  // namespace

bool Machine::running() {
  const Json status = qmp_.call("query-status");
  return text_of(status, "status") == "running";
}

bool Machine::has_balloon() {
  for (const char* where : {"/machine/peripheral", "/machine/peripheral-anon"}) {
    for (const auto& device : qmp_.call("qom-list", {{"path", where}})) {
      const std::string type = text_of(device, "type");
      if (type.find("balloon") != std::string::npos || type.find("virtio-mem") != std::string::npos) return true;
    }
  }
  return false;
}

bool Machine::balloon_inflated() {
  try {
    const Json all = qmp_.call("query-memory-size-summary");
    return qmp_.call("query-balloon").at("actual").get<std::int64_t>() <
           all.at("base-memory").get<std::int64_t>() + all.value("plugged-memory", std::int64_t{0});
  } catch (const Error& error) {
    if (error.code() != Code::kInvalid) throw;
    return false;  // it has no balloon, or its driver does not use it
  }
}

void Machine::stop() { qmp_.call("stop", Json::object(), {}, kStopTimeout); }

void Machine::resume() { qmp_.call("cont", Json::object(), {}, kStopTimeout); }

// Each step may find that it was done already, or never begun. A load that a former engine began may still run.
void Machine::clean_up_load() {
  if (wait_for_job(qmp_, kLoadJob)) qmp_.try_call("job-dismiss", {{"id", kLoadJob}});
  qmp_.try_call("blockdev-del", {{"node-name", kLoadNode}});
  remove_fdsets(qmp_, kLoadOpaque);
}

// snapshot-load wants a writable qcow2 node with the tag among `devices`; it takes the device state from it, and sends
// every listed node back to its own snapshot `tag` first. It reads no RAM section because there is none in the stream.
void Machine::stage_load(std::span<const std::byte> state, const std::string& machine, const std::string& tag) {
  const Fd image = Fd::memory("mhv-load");
  const auto bytes = vmstate_image(tag, device_stream(machine, state));
  pwrite_all(image.get(), bytes, 0, "the device state");
  clean_up_load();
  const std::string path = fdset_path(give_fd(qmp_, image, kLoadOpaque).set);
  qmp_.call("blockdev-add",
            {{"driver", "qcow2"}, {"node-name", kLoadNode}, {"file", {{"driver", "file"}, {"filename", path}, {"locking", "off"}}}});
}

void Machine::load(const std::string& tag, std::span<const DiskNode> disks) {
  Json devices = Json::array({kLoadNode});
  for (const auto& disk : disks) devices.push_back(disk.node);
  try {
    qmp_.call("snapshot-load", {{"job-id", kLoadJob}, {"tag", tag}, {"vmstate", kLoadNode}, {"devices", devices}}, {}, kLoadTimeout);
    const std::optional<std::string> error = wait_for_job(qmp_, kLoadJob);
    if (!error || !error->empty()) {
      throw Error(Code::kInternal, "QEMU could not load the device state: " + error.value_or("its job is gone"),
                  "restore the checkpoint again, or another one");
    }
  } catch (const Error& error) {
    if (error.code() != Code::kGone && error.code() != Code::kUnavailable) clean_up_load();
    throw;
  }
}

// A transaction drains every node before its first action, also when it has none.
void Machine::drain_disks() { qmp_.call("transaction", {{"actions", Json::array()}}, {}, kStopTimeout); }

void Machine::delete_disk_snapshot(const DiskNode& disk, const std::string& tag) {
  try {
    qmp_.call("blockdev-snapshot-delete-internal-sync", {{"device", disk.node}, {"name", tag}}, {}, kStopTimeout);
  } catch (const Error& error) {
    if (error.code() != Code::kInvalid || !lacks_snapshot(qmp_, disk.node, tag)) throw;
  }
}

}  // namespace mhv::guest
