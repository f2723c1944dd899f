// Any bytes are either taken as device state, unchanged behind the configuration section, or an Error.
#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "guest/stream.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::byte> state = std::as_bytes(std::span(data, size));
  try {
    const auto stream = mhv::guest::device_stream("pc", state);
    if (!std::equal(stream.end() - static_cast<std::ptrdiff_t>(size - 8), stream.end(), state.begin() + 8)) std::abort();
    if (mhv::guest::vmstate_image("t", stream).size() % 65536 != 0) std::abort();
  } catch (const mhv::Error&) {
  }
  return 0;
}
