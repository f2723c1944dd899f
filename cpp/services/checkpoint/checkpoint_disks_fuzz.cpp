// Any bytes as a directory of disk changes, the first one the number of disks: refused, or the same bytes when it is made again.
#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "checkpoint/disk_area.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto directory = std::as_bytes(std::span(data + 1, size - 1));
  try {
    const auto slots = mhv::checkpoint::parse_disk_directory(directory, data[0]);
    if (!std::ranges::equal(mhv::checkpoint::disk_directory(slots), directory)) std::abort();
  } catch (const mhv::Error&) {
  }
  return 0;
}
