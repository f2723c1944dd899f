#include "mhvd/guest_taps.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <utility>

#include "base/error.h"
#include "base/fd.h"
#include "stack/builtin.h"

namespace mhv::mhvd {
namespace {

constexpr std::size_t kTapRecordMax = 64 << 10;
constexpr std::size_t kTapNameMax = 15;
constexpr const char* kTapRecordEnding = ".taps";

TapRecord load_tap_record(const std::string& path) {
  try {
    return parse_tap_record(read_file(path, kTapRecordMax)).value_or(TapRecord{});
  } catch (const Error&) {
    return {};  // none
  }
}

}  // namespace

std::optional<TapRecord> parse_tap_record(std::string_view text) {
  std::istringstream in{std::string(text)};
  TapRecord out;
  if (!(in >> out.process.pid >> out.process.start_time) || out.process.pid <= 0) return std::nullopt;
  for (std::string tap; in >> tap; out.taps.push_back(tap)) {
    if (tap.size() > kTapNameMax) return std::nullopt;
  }
  return out;
}

GuestTaps::GuestTaps(Hypervisor& hypervisor, std::string record)
    : hypervisor_(hypervisor), path_(std::move(record)), record_(load_tap_record(path_)) {}

void GuestTaps::save() {
  if (record_.taps.empty()) {
    std::filesystem::remove(path_);
    return;
  }
  std::string text = std::to_string(record_.process.pid) + " " + std::to_string(record_.process.start_time) + "\n";
  for (const std::string& tap : record_.taps) text += tap + "\n";
  replace_file(path_, std::as_bytes(std::span(text)));
}

// The record names all of the guest's taps, and those that it no longer has are put back.
GuestTaps::Change GuestTaps::settle(const Domain& domain, std::vector<std::string>& taps) {
  taps = hypervisor_.taps(domain);
  if (record_.process != *domain.process) undo();
  record_.process = *domain.process;
  Change out;
  for (const std::string& tap : std::vector(record_.taps)) {
    if (std::ranges::find(taps, tap) != taps.end()) continue;
    undo(tap);
    if (handed_over_.erase(tap) != 0) out.message.add_removed(tap);
  }
  for (const std::string& tap : taps) {
    if (std::ranges::find(record_.taps, tap) == record_.taps.end()) record_.taps.push_back(tap);
  }
  save();
  return out;
}

GuestTaps::Change GuestTaps::interpose(const Domain& domain) {
  std::vector<std::string> taps;
  Change out = settle(domain, taps);
  std::vector<std::string> added;
  for (std::size_t nic = 0; nic < taps.size(); ++nic) {
    if (handed_over_.contains(taps[nic])) continue;
    std::vector<Fd> ends = hypervisor_.interpose(record_.process, taps[nic]);
    if (ends.size() != 2) throw Error(Code::kInternal, "mhv-tapper sent no two descriptors for " + taps[nic]);
    protocol::WorkerTap& tap = *out.message.add_added();
    tap.set_name(taps[nic]);
    tap.set_nic(static_cast<std::uint32_t>(nic));
    tap.set_from_guest_fd(static_cast<std::uint32_t>(out.fds.size()));
    tap.set_to_guest_fd(static_cast<std::uint32_t>(out.fds.size() + 1));
    for (Fd& end : ends) out.fds.push_back(std::move(end));
    added.push_back(taps[nic]);
  }
  handed_over_.insert(added.begin(), added.end());
  closed_.clear();
  return out;
}

void GuestTaps::close(const Domain& domain) {
  closed_.merge(handed_over_);
  handed_over_.clear();
  std::vector<std::string> taps;
  settle(domain, taps);
  for (const std::string& tap : taps) {
    if (closed_.contains(tap)) continue;
    hypervisor_.interpose(record_.process, tap);
    closed_.insert(tap);
  }
}

void GuestTaps::undo(const std::string& tap) {
  hypervisor_.undo_interpose(record_.process, tap);
  std::erase(record_.taps, tap);
  closed_.erase(tap);
  save();
}

void GuestTaps::undo() {
  for (const std::string& tap : std::vector(record_.taps)) undo(tap);
  handed_over_.clear();
  closed_.clear();
}

bool claims_network(const LayerRegistry& registry, const protocol::ServiceOptions& options) {
  return std::ranges::any_of(options.services(), [&](const std::string& service) {
    if (stack::is_built_in(service)) return false;
    try {
      return registry.find(service).manifest.claims.network != stack::NetworkClaim::kNone;
    } catch (const Error&) {
      return false;
    }
  });
}

void undo_strangers(Hypervisor& hypervisor, const std::string& folder, const std::set<std::string>& known) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string uuid = entry.path().stem().string();
    if (entry.path().extension() != kTapRecordEnding || known.contains(uuid)) continue;
    try {
      GuestTaps(hypervisor, entry.path().string()).undo();
      spdlog::info("guest {}: it is known no more, and its taps are where they were", uuid);
    } catch (const Error& error) {
      spdlog::warn("guest {}, which is known no more: {} ({})", uuid, error.what(), error.hint());
    }
  }
}

}  // namespace mhv::mhvd
