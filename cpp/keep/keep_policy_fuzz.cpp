// A policy's text: taken or refused; what is taken drops no more than there is, and never the newest.
#include "base/error.h"
#include "keep/policy.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mhv::keep;
  try {
    const Policy policy = Policy::parse({reinterpret_cast<const char*>(data), size});
    std::vector<Moment> all;
    for (std::int64_t i = 0; i < 50; ++i) all.push_back({std::to_string(i), i * i * 1'000'000'000});
    const auto dropped = policy.dropped(all, 3000'000'000'000);
    if (dropped.size() >= all.size()) __builtin_trap();
    for (const std::string& id : dropped) {
      if (id == "49") __builtin_trap();
    }
  } catch (const mhv::Error&) {
  }
  return 0;
}
