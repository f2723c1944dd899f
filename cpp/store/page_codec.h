// A page's name, and its stored form.
#pragma once

#include <cstddef>
#include <span>

#include "store/format.h"

namespace mhv::store {

bool is_zero(std::span<const std::byte, kPageSize> page);

// Compresses into `room`; the page itself when that would not be smaller. The result lives in `room` or in `page`.
// Thread-safe.
struct EncodedPage {
  Encoding encoding;
  std::span<const std::byte> payload;
};
EncodedPage encode_page(std::span<const std::byte, kPageSize> page, std::span<std::byte, kPageSize> room);

// False when the payload does not decode to exactly one page. Payloads are untrusted.
bool decode_page(Encoding encoding, std::span<const std::byte> payload, std::span<std::byte, kPageSize> out);

}  // namespace mhv::store
