// Secret keys, and how one is made from another.
//
//   the host's key (a file) -> a guest's -> its store's -> those of a segment, of CATALOG and of the names of contents
//
// Each arrow is HKDF-SHA256 (RFC 5869): who has a key on the right learns nothing of what stands to the left of it, nor beside it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace mhv::keys {

// Wipes itself.
struct Key {
  std::array<std::uint8_t, 32> bytes{};
  Key() = default;
  // Throws kInvalid for another length.
  explicit Key(std::string_view text);
  Key(const Key&) = default;
  Key& operator=(const Key&) = default;
  ~Key();
  std::string_view text() const { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
};

// `info` says what the new key is for; `salt` tells keys for the same use apart and need not be secret.
Key derive(const Key& from, std::span<const std::uint8_t> salt, std::string_view info);

// Of the bytes of a string that held a key.
void wipe(std::span<char> text);

}  // namespace mhv::keys
