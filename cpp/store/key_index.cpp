#include "store/key_index.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <random>

namespace mhv::store {

std::size_t KeyIndex::Hash::operator()(const PageKey& key) const { return XXH3_64bits_withSeed(key.bytes.data(), key.bytes.size(), seed); }

KeyIndex::KeyIndex() : hash_{(std::uint64_t{std::random_device{}()} << 32) | std::random_device{}()}, base_numbers_(0, hash_) {}

void KeyIndex::set(Slot& slot, const Location& l) {
  const std::uint64_t packed = (std::uint64_t{l.segment} << 37) | (std::uint64_t{l.offset / 8} << 13) | l.stored;
  slot.location[0] = static_cast<std::uint32_t>(packed);
  slot.location[1] = static_cast<std::uint32_t>(packed >> 32);
}

Content KeyIndex::content_of(const Slot& slot) const {
  const std::uint64_t packed = std::uint64_t{slot.location[1]} << 32 | slot.location[0];
  return {{static_cast<std::uint32_t>(packed >> 37), static_cast<std::uint32_t>((packed >> 13) & 0xffffff) * 8,
           static_cast<std::uint32_t>(packed & 0x1fff)},
          slot.base == 0 ? PageKey{} : bases_[slot.base - 1].key};
}

std::size_t KeyIndex::home_of(const PageKey& key) const { return hash_(key) & (slots_.size() - 1); }

std::size_t KeyIndex::slot_of(const PageKey& key) const {
  std::size_t at = home_of(key);
  while (!slots_[at].key.is_zero_page() && slots_[at].key != key) at = (at + 1) & (slots_.size() - 1);
  return at;
}

std::optional<Content> KeyIndex::find(const PageKey& key) const {
  if (slots_.empty()) return std::nullopt;
  const Slot& slot = slots_[slot_of(key)];
  if (slot.key.is_zero_page()) return std::nullopt;
  return content_of(slot);
}

void KeyIndex::insert(const PageKey& key, const Location& location, const PageKey& base) {
  if ((used_ + 1) * 4 > slots_.size() * 3) grow(slots_.empty() ? 1024 : slots_.size() * 2);
  const std::uint32_t number = base.is_zero_page() ? 0 : use_base(base);
  const std::size_t at = slot_of(key);
  Slot& slot = slots_[at];
  colours_[at] = colour_;
  if (slot.key.is_zero_page()) {
    slot.key = key;
    ++used_;
  } else if (slot.base != 0) {
    leave_base(slot.base);
  }
  slot.base = number;
  set(slot, location);
}

void KeyIndex::unmark_all() {
  if (++colour_ != 0) return;
  std::fill(colours_.begin(), colours_.end(), std::uint8_t{0});  // all colours were used once
  colour_ = 1;
}

bool KeyIndex::mark(const PageKey& key) {
  if (slots_.empty()) return false;
  const std::size_t at = slot_of(key);
  if (slots_[at].key.is_zero_page() || colours_[at] == colour_) return false;
  colours_[at] = colour_;
  return true;
}

bool KeyIndex::marked(const PageKey& key) const {
  if (slots_.empty()) return false;
  const std::size_t at = slot_of(key);
  return !slots_[at].key.is_zero_page() && colours_[at] == colour_;
}

// What stands behind in the same row moves up, so that no look-up ends at the hole.
void KeyIndex::erase(const PageKey& key) {
  if (slots_.empty()) return;
  std::size_t hole = slot_of(key);
  if (slots_[hole].key.is_zero_page()) return;
  if (slots_[hole].base != 0) leave_base(slots_[hole].base);
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t at = (hole + 1) & mask; !slots_[at].key.is_zero_page(); at = (at + 1) & mask) {
    if (((at - home_of(slots_[at].key)) & mask) < ((at - hole) & mask)) continue;  // its home is behind the hole
    slots_[hole] = slots_[at];
    colours_[hole] = colours_[at];
    hole = at;
  }
  slots_[hole] = Slot{};
  --used_;
}

void KeyIndex::reserve(std::size_t keys) {
  const std::size_t slots = std::bit_ceil(keys / 3 * 4 + 4);
  if (slots > slots_.size()) grow(slots);
}

void KeyIndex::grow(std::size_t slots) {
  std::vector<Slot> old(slots);
  std::vector<std::uint8_t> colours(slots);
  old.swap(slots_);
  colours.swap(colours_);
  for (std::size_t i = 0; i < old.size(); ++i) {
    if (old[i].key.is_zero_page()) continue;
    const std::size_t at = slot_of(old[i].key);
    slots_[at] = old[i];
    colours_[at] = colours[i];
  }
}

std::uint32_t KeyIndex::use_base(const PageKey& key) {
  const auto [at, added] = base_numbers_.try_emplace(key, 0);
  if (added) {
    if (free_bases_.empty()) {
      bases_.push_back({key, 0});
      at->second = static_cast<std::uint32_t>(bases_.size());
    } else {
      at->second = free_bases_.back();
      free_bases_.pop_back();
      bases_[at->second - 1] = {key, 0};
    }
  }
  ++bases_[at->second - 1].uses;
  return at->second;
}

void KeyIndex::leave_base(std::uint32_t number) {
  Base& base = bases_[number - 1];
  if (--base.uses > 0) return;
  base_numbers_.erase(base.key);
  free_bases_.push_back(number);
}

}  // namespace mhv::store
