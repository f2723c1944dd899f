// Any text is either QEMU's table, with sound blocks, or an Error.
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "guest/ram.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto blocks = mhv::guest::parse_ramblock_listing({reinterpret_cast<const char*>(data), size});
    if (blocks.empty() || blocks.size() > mhv::guest::kRamBlocksMax) std::abort();
    for (const auto& block : blocks) {
      if (block.used_bytes == 0 || block.used_bytes % mhv::kPageSize != 0 || block.host_virt + block.used_bytes < block.host_virt)
        std::abort();
    }
  } catch (const mhv::Error&) {
  }
  return 0;
}
