// What format.cpp and format_schema.cpp share: loads, checksums and refusals.
#pragma once

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "store/format.h"

namespace mhv::store {

template <typename T>
T load(std::span<const std::byte> bytes, std::size_t at = 0) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

template <typename T>
void append(std::vector<std::byte>& out, const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

[[noreturn]] inline void corrupt(const std::string& what) { throw Error(Code::kCorrupt, what, kDamageHint); }

inline std::uint64_t hash(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

// Of a header and what follows it.
inline std::uint64_t hash2(std::span<const std::byte> head, std::span<const std::byte> body) {
  return XXH3_64bits_withSeed(body.data(), body.size(), hash(head));
}

// A header's bytes before its checksum.
template <typename T>
std::span<const std::byte> unchecked(const T& header) {
  return std::as_bytes(std::span(&header, 1)).first(offsetof(T, checksum));
}

void check_version(std::uint32_t version, std::uint32_t wanted, const char* what);

}  // namespace mhv::store
