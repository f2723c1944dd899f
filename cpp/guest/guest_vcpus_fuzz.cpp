// Any bytes are some processors, or none.
#include <cstdlib>

#include "guest/vcpus.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto state = std::as_bytes(std::span(data, size));
  const auto vcpus = mhv::guest::parse_vcpus(state);
  if (vcpus.size() * 864 > size || mhv::guest::parse_registers(state).size() != vcpus.size()) std::abort();
  return 0;
}
