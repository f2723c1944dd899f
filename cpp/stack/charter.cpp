#include "stack/charter.h"

#include <algorithm>

namespace mhv::stack {
namespace {

constexpr std::int64_t kEpochMsMin = 10, kEpochMsMax = 3'600'000;

}  // namespace

Charter charter_of(const Manifest& manifest, const std::string& configuration) {
  Charter out;
  out.name = manifest.name;
  out.memory = manifest.claims.reads_ram();
  out.written_pages = manifest.claims.written_pages;
  out.vcpus = manifest.claims.vcpu >= VcpuClaim::kRead;
  out.sees_events = manifest.claims.see_events;
  out.sends_events = manifest.claims.send_events;
  out.network = manifest.claims.network;
  out.fail_closed = manifest.policy == Policy::kFailClosed;
  for (const Action action : manifest.claims.actions) out.actions.insert(name_of(action));
  out.epoch_every = std::chrono::milliseconds(manifest.resources.epoch_ms);
  const auto settings = nlohmann::json::parse(configuration, nullptr, false);
  if (settings.is_object() && settings.contains("epoch_ms")) {
    out.epoch_every =
        std::chrono::milliseconds(std::clamp<std::int64_t>(settings.value("epoch_ms", std::int64_t{0}), kEpochMsMin, kEpochMsMax));
  }
  out.budget = std::chrono::milliseconds(manifest.resources.budget_ms);
  return out;
}

}  // namespace mhv::stack
