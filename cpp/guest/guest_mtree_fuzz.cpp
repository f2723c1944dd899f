// Any text is either a map of RAM that lies in the blocks, or an Error.
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "guest/physical_map.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<mhv::guest::RamBlock> blocks(2);
  blocks[0].name = "pc.ram";
  blocks[0].bytes = 4ull << 30;
  blocks[1].name = "0000:00:02.0/vga.vram";
  blocks[1].bytes = 16u << 20;
  try {
    std::uint64_t end = 0;
    for (const auto& part : mhv::guest::parse_memory_tree({reinterpret_cast<const char*>(data), size}, blocks)) {
      const bool inside = part.block < blocks.size() && part.offset <= blocks[part.block].bytes &&
                          part.bytes <= blocks[part.block].bytes - part.offset;
      if (!inside || part.start < end || part.bytes == 0) std::abort();
      end = part.start + part.bytes;
    }
  } catch (const mhv::Error&) {
  }
  return 0;
}
