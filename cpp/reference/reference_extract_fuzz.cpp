// What somebody took for a kernel's package: it is refused or unpacked.
#include "base/error.h"
#include "reference/extract.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    mhv::reference::extract_kernel(std::as_bytes(std::span(data, size)));
  } catch (const mhv::Error&) {
  }
  return 0;
}
