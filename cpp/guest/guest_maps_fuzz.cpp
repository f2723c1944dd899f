// Any text is either a list of ascending mappings, or an Error.
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "guest/ram.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    std::uint64_t end = 0;
    for (const auto& entry : mhv::guest::parse_maps({reinterpret_cast<const char*>(data), size})) {
      if (entry.start < end || entry.end <= entry.start) std::abort();
      end = entry.end;
    }
  } catch (const mhv::Error&) {
  }
  return 0;
}
