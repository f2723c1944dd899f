// Contents that pages were stored with in full lately: what the next content of such a page is stored as a patch of.
//
// A delta stands on a whole record, never on another delta: reading a page follows one link. So the base of a page stays
// the same for many epochs, while the patches grow as the page drifts away from it. When what they cost more than the first one
// comes to what a whole record costs, the page gets a new base (the rule of the ski rental: at most twice the best).
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "store/format.h"

namespace mhv::store {

// Not thread-safe. At most 4,096 bytes and some for each of kSlots pages, taken when they are needed.
class BaseCache {
 public:
  static constexpr std::size_t kSlots = 1 << 14;  // 64 MiB

  struct Entry {
    std::uint32_t page = 0;
    PageKey key;
    std::array<std::byte, kPageSize> content;
    std::size_t smallest = kPageSize;  // patch so far
    std::size_t excess = 0;            // bytes that the others were longer
  };

  // nullptr: not known.
  Entry* find(std::uint32_t page) {
    Entry* const entry = slot(page).get();
    return entry != nullptr && entry->page == page && !entry->key.is_zero_page() ? entry : nullptr;
  }
  // In the place of what was there. `content`: nullptr leaves it to be filled in.
  Entry& put(std::uint32_t page, const PageKey& key, const std::byte* content) {
    auto& entry = slot(page);
    if (!entry) entry = std::make_unique_for_overwrite<Entry>();
    entry->page = page;
    entry->key = key;
    entry->smallest = kPageSize;
    entry->excess = 0;
    if (content != nullptr) std::copy_n(content, kPageSize, entry->content.begin());
    return *entry;
  }

 private:
  std::unique_ptr<Entry>& slot(std::uint32_t page) {
    if (slots_.empty()) slots_.resize(kSlots);
    return slots_[(page * 0x9e3779b1u) >> 18];  // the upper 14 bits
  }
  std::vector<std::unique_ptr<Entry>> slots_;
};

}  // namespace mhv::store
