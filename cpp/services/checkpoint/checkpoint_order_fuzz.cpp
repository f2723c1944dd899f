// Any bytes as an order of page faults: refused, or pages that a file of that length can hold.
#include <cstdlib>

#include "base/error.h"
#include "checkpoint/fault_order.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto pages = mhv::checkpoint::parse_fault_order(std::as_bytes(std::span(data, size)));
    if (pages.size() > mhv::checkpoint::kFaultOrderMax || pages.size() * 4 + 12 != size) std::abort();
  } catch (const mhv::Error&) {
  }
  return 0;
}
