// A manifest as a stranger may have written it: refused, or decided upon, alone and beside checkpoint; its schema refuses or fills in.
#include <vector>

#include "base/error.h"
#include "stack/arbiter.h"
#include "stack/builtin.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mhv::stack;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const Manifest manifest = parse_manifest(text);
    if (manifest.built_in || !is_name(manifest.name) || manifest.resources.budget_ms > manifest.resources.epoch_ms) __builtin_trap();
    try {
      manifest.configuration.check("{}");
      manifest.configuration.check(R"({"top": 1, "mode": "stop"})");
    } catch (const mhv::Error&) {
    }
    const Arbitration out = arbitrate(std::vector{built_in("checkpoint"), manifest});
    // What no layer of a third party gets.
    const Claims& granted = out.grants.at(1).claims;
    if (granted.restore || granted.has(MemoryAccess::kWrite) || granted.vcpu > VcpuClaim::kRead || granted.disk != DiskClaim::kNone ||
        granted.network > NetworkClaim::kDrop)
      __builtin_trap();
  } catch (const mhv::Error&) {
  }
  return 0;
}
