#include "stack/charter.h"

namespace mhv::stack {

Charter charter_of(const Manifest& manifest) {
  Charter out;
  out.name = manifest.name;
  out.memory = manifest.claims.reads_ram();
  out.written_pages = manifest.claims.written_pages;
  out.vcpus = manifest.claims.vcpu >= VcpuClaim::kRead;
  out.sees_events = manifest.claims.see_events;
  out.sends_events = manifest.claims.send_events;
  for (const Action action : manifest.claims.actions) out.actions.insert(name_of(action));
  out.epoch_every = std::chrono::milliseconds(manifest.resources.epoch_ms);
  out.budget = std::chrono::milliseconds(manifest.resources.budget_ms);
  return out;
}

}  // namespace mhv::stack
