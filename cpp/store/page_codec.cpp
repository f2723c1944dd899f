#include "store/page_codec.h"

#include <lz4.h>
#include <zstd.h>

#include <bit>
#include <cstring>
#include <memory>

namespace mhv::store {
namespace {

constexpr std::size_t kGapMin = 4;  // a gap that is shorter costs less as a part of the run

std::uint64_t word(std::span<const std::byte, kPageSize> page, std::size_t at) {
  std::uint64_t value;
  std::memcpy(&value, page.data() + at, 8);
  return value;
}

// The first byte from `at` on in which they differ; kPageSize when there is none.
std::size_t next_difference(std::span<const std::byte, kPageSize> a, std::span<const std::byte, kPageSize> b, std::size_t at) {
  for (; at % 8 != 0; ++at) {
    if (a[at] != b[at]) return at;
  }
  while (at % 64 != 0 && at < kPageSize && word(a, at) == word(b, at)) at += 8;
  if (at % 64 == 0) {
    while (at < kPageSize && std::memcmp(a.data() + at, b.data() + at, 64) == 0) at += 64;
  }
  for (; at < kPageSize; at += 8) {
    const std::uint64_t differ = word(a, at) ^ word(b, at);
    if (differ != 0) return at + static_cast<std::size_t>(std::countr_zero(differ)) / 8;
  }
  return kPageSize;
}

// The end of the run of differences that begins at `at`: kGapMin equal bytes follow it, or the page ends.
std::size_t end_of_run(std::span<const std::byte, kPageSize> a, std::span<const std::byte, kPageSize> b, std::size_t at) {
  std::size_t equal = 0, end = at + 1;
  for (++at; at < kPageSize && equal < kGapMin; ++at) {
    if (a[at] == b[at]) {
      ++equal;
    } else {
      equal = 0;
      end = at + 1;
    }
  }
  return end;
}

std::size_t put_number(std::byte* out, std::size_t number) {
  if (number < 0x80) {
    out[0] = static_cast<std::byte>(number);
    return 1;
  }
  out[0] = static_cast<std::byte>(0x80 | number >> 8);
  out[1] = static_cast<std::byte>(number & 0xff);
  return 2;
}

// Takes a number off the front; false: there is none.
bool take_number(std::span<const std::byte>& in, std::size_t& number) {
  if (in.empty()) return false;
  number = static_cast<std::size_t>(in[0]);
  in = in.subspan(1);
  if (number < 0x80) return true;
  if (in.empty()) return false;
  number = (number & 0x7f) << 8 | static_cast<std::size_t>(in[0]);
  in = in.subspan(1);
  return true;
}

}  // namespace

// LZ4 where all of RAM is stored at once: zstd's level 1 takes two to three times as long for a quarter less.
EncodedPage encode_page(std::span<const std::byte, kPageSize> page, Effort effort, Room room) {
  if (std::memcmp(page.data(), page.data() + 8, kPageSize - 8) == 0) return {Kind::kFilled, page.first(8)};
  if (effort == Effort::kDense) {
    thread_local const std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> zstd(ZSTD_createCCtx(), &ZSTD_freeCCtx);
    const std::size_t n = ZSTD_compressCCtx(zstd.get(), room.data(), kPageSize - 1, page.data(), kPageSize, 1);
    if (ZSTD_isError(n) != 0) return {Kind::kRaw, page};  // did not fit in less than a page
    return {Kind::kZstd, room.first(n)};
  }
  const int n = LZ4_compress_default(reinterpret_cast<const char*>(page.data()), reinterpret_cast<char*>(room.data()),
                                     static_cast<int>(kPageSize), static_cast<int>(kPageSize) - 1);
  if (n <= 0) return {Kind::kRaw, page};  // did not fit in less than a page
  return {Kind::kLz4, room.first(static_cast<std::size_t>(n))};
}

std::span<const std::byte> encode_delta(std::span<const std::byte, kPageSize> page, std::span<const std::byte, kPageSize> base,
                                        const PageKey& base_key, std::size_t bytes_max, Room room) {
  std::memcpy(room.data(), &base_key, sizeof base_key);
  std::size_t used = sizeof base_key, behind = 0;
  for (std::size_t at = next_difference(page, base, 0); at < kPageSize; at = next_difference(page, base, behind)) {
    const std::size_t end = end_of_run(page, base, at);
    if (used + 4 + (end - at) > bytes_max) return {};
    used += put_number(room.data() + used, at - behind);
    used += put_number(room.data() + used, end - at);
    std::memcpy(room.data() + used, page.data() + at, end - at);
    used += end - at;
    behind = end;
  }
  return room.first(used);
}

bool decode_page(Kind kind, std::span<const std::byte> payload, std::span<std::byte, kPageSize> out) {
  switch (kind) {
    case Kind::kRaw:
      if (payload.size() != kPageSize) return false;
      std::memcpy(out.data(), payload.data(), kPageSize);
      return true;
    case Kind::kFilled:
      if (payload.size() != 8) return false;
      for (std::size_t at = 0; at < kPageSize; at += 8) std::memcpy(out.data() + at, payload.data(), 8);
      return true;
    case Kind::kLz4:
      return LZ4_decompress_safe(reinterpret_cast<const char*>(payload.data()), reinterpret_cast<char*>(out.data()),
                                 static_cast<int>(payload.size()), static_cast<int>(kPageSize)) == static_cast<int>(kPageSize);
    case Kind::kZstd: {
      thread_local const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> zstd(ZSTD_createDCtx(), &ZSTD_freeDCtx);
      return ZSTD_decompressDCtx(zstd.get(), out.data(), kPageSize, payload.data(), payload.size()) == kPageSize;
    }
    default: return false;
  }
}

bool apply_delta(std::span<const std::byte> payload, std::span<std::byte, kPageSize> page) {
  if (payload.size() < sizeof(PageKey)) return false;
  auto in = payload.subspan(sizeof(PageKey));
  std::size_t at = 0;
  while (!in.empty()) {
    std::size_t skip = 0, length = 0;
    if (!take_number(in, skip) || !take_number(in, length)) return false;
    at += skip;
    if (length == 0 || length > in.size() || at + length > kPageSize) return false;
    std::memcpy(page.data() + at, in.data(), length);
    at += length;
    in = in.subspan(length);
  }
  return true;
}

}  // namespace mhv::store
