// Requests from the wire: frame header, message, limits. Nothing but mhv::Error may come out.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/error.h"
#include "base/frame.h"
#include "mhvd/request_check.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    mhv::parse_frame_header(std::as_bytes(std::span(data, size)));
  } catch (const mhv::Error&) {
  }
  try {
    const auto request = mhv::mhvd::parse_request(bytes);
    mhv::mhvd::check_request(request, 0);
    if (mhv::mhvd::guest_of(request).size() > mhv::mhvd::kNameBytesMax) __builtin_trap();
  } catch (const mhv::Error&) {
  }
  return 0;
}
