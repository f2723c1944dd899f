// Any bytes are some processors, or none.
#include <cstdlib>

#include "guest/vcpus.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto vcpus = mhv::guest::parse_vcpus(std::as_bytes(std::span(data, size)));
  if (vcpus.size() * 864 > size) std::abort();
  return 0;
}
