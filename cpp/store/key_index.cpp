#include "store/key_index.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <bit>
#include <random>

namespace mhv::store {

KeyIndex::KeyIndex() : seed_((std::uint64_t{std::random_device{}()} << 32) | std::random_device{}()) {}

std::uint64_t KeyIndex::pack(const Location& l) {
  return (std::uint64_t{l.segment} << 37) | (std::uint64_t{l.offset / 8} << 13) | l.stored;
}

Location KeyIndex::unpack(std::uint64_t packed) {
  return {static_cast<std::uint32_t>(packed >> 37), static_cast<std::uint32_t>((packed >> 13) & 0xffffff) * 8,
          static_cast<std::uint16_t>(packed & 0x1fff)};
}

std::size_t KeyIndex::slot_of(const PageKey& key) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = XXH3_64bits_withSeed(key.bytes.data(), key.bytes.size(), seed_) & mask;
  while (!slots_[at].key.is_zero_page() && slots_[at].key != key) at = (at + 1) & mask;
  return at;
}

std::optional<Location> KeyIndex::find(const PageKey& key) const {
  if (slots_.empty()) return std::nullopt;
  const Slot& slot = slots_[slot_of(key)];
  if (slot.key.is_zero_page()) return std::nullopt;
  return unpack(slot.location);
}

void KeyIndex::insert(const PageKey& key, const Location& location) {
  if ((used_ + 1) * 4 > slots_.size() * 3) grow(slots_.empty() ? 1024 : slots_.size() * 2);
  Slot& slot = slots_[slot_of(key)];
  if (slot.key.is_zero_page()) {
    slot.key = key;
    ++used_;
  }
  slot.location = pack(location);
}

void KeyIndex::reserve(std::size_t keys) {
  const std::size_t slots = std::bit_ceil(keys / 3 * 4 + 4);
  if (slots > slots_.size()) grow(slots);
}

void KeyIndex::grow(std::size_t slots) {
  std::vector<Slot> old(slots);
  old.swap(slots_);
  for (const Slot& slot : old) {
    if (!slot.key.is_zero_page()) slots_[slot_of(slot.key)] = slot;
  }
}

}  // namespace mhv::store
