// A page's stored form.
#pragma once

#include <cstddef>
#include <span>

#include "store/format.h"

namespace mhv::store {

using Room = std::span<std::byte, kPageSize + sizeof(PageKey)>;

struct EncodedPage {
  Kind kind;
  std::span<const std::byte> payload;  // in `room` or in the page
};
// The page by itself: one word again and again, compressed, or raw where that would not be smaller. Thread-safe.
EncodedPage encode_page(std::span<const std::byte, kPageSize> page, Effort effort, Room room);

// The page as a patch of `base`, in at most `bytes_max` bytes with the base's key; an empty span: it would be longer.
//
//   base's key (16 bytes) | runs: bytes to skip | bytes that follow, at least 1 | these bytes
//   Both numbers are one byte, or 0x80 | high 7 bits, low byte. What is behind the last run is as in the base.
std::span<const std::byte> encode_delta(std::span<const std::byte, kPageSize> page, std::span<const std::byte, kPageSize> base,
                                        const PageKey& base_key, std::size_t bytes_max, Room room);

// False when the payload does not decode to exactly one page. Payloads are untrusted.
bool decode_page(Kind kind, std::span<const std::byte> payload, std::span<std::byte, kPageSize> out);
// Applies the patch to `page`, which holds the base.
bool apply_delta(std::span<const std::byte> payload, std::span<std::byte, kPageSize> page);

}  // namespace mhv::store
