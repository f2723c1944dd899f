// Where each content is: PageKey -> Location, in memory.
//
// An open-addressed table of 28-byte slots. It is made again at every open from the segments' index files, so no write
// of it belongs to a commit. Measured against an LMDB with 131,072 keys: 106 ns a look-up beside 651, and nothing at a
// commit, where 1,000 scattered keys made LMDB write 10.9 MB (the pages themselves are 4) and use 4.7 ms.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "store/format.h"

namespace mhv::store {

// A page record's place, in 63 bits: segment number (26), offset / 8 (24), payload bytes (13).
static_assert(kPageStoredMax < 1u << 13);
struct Location {
  std::uint32_t segment = 0;
  std::uint32_t offset = 0;
  std::uint32_t stored = 0;
  friend bool operator==(const Location&, const Location&) = default;
};

struct Content {
  Location at;
  PageKey base;  // of a delta; else zeros
};

// Readers may share it while nobody changes it; marks are of him alone who changes it, and readers do not see them. The key
// of the zero page is never in it.
class KeyIndex {
 public:
  KeyIndex();
  std::optional<Content> find(const PageKey& key) const;
  void insert(const PageKey& key, const Location& location, const PageKey& base);  // replaces; is marked
  void erase(const PageKey& key);
  std::size_t size() const { return used_; }
  void reserve(std::size_t keys);

  template <typename Fn>
  void for_each(Fn&& fn) const {
    for (const Slot& slot : slots_) {
      if (!slot.key.is_zero_page()) fn(slot.key, content_of(slot));
    }
  }

  // Nothing is marked then: in no time, for a mark is a colour, and this takes the next colour.
  void unmark_all();
  // False: is not there, or was marked before.
  bool mark(const PageKey& key);
  bool marked(const PageKey& key) const;

 private:
  struct Slot {
    PageKey key;
    std::uint32_t location[2] = {0, 0};  // two halves, so that a slot has no padding
    std::uint32_t base = 0;              // in bases_, from 1
  };
  static_assert(sizeof(Slot) == 28);
  // Few contents are bases, each of many: a key is there once, with the number of those that use it.
  struct Base {
    PageKey key;
    std::uint32_t uses = 0;
  };
  // Seeded at random: a guest must not be able to choose contents that crowd one place.
  struct Hash {
    std::uint64_t seed;
    std::size_t operator()(const PageKey& key) const;
  };
  static void set(Slot& slot, const Location& location);
  Content content_of(const Slot& slot) const;
  std::size_t home_of(const PageKey& key) const;
  std::size_t slot_of(const PageKey& key) const;  // where it is, or would be
  void grow(std::size_t slots);
  std::uint32_t use_base(const PageKey& key);
  void leave_base(std::uint32_t number);

  std::vector<Slot> slots_;
  std::vector<std::uint8_t> colours_;  // beside slots_
  std::size_t used_ = 0;
  std::uint8_t colour_ = 0;
  Hash hash_;
  std::vector<Base> bases_;
  std::unordered_map<PageKey, std::uint32_t, Hash> base_numbers_;
  std::vector<std::uint32_t> free_bases_;
};

}  // namespace mhv::store
