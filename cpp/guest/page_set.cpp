#include "guest/page_set.h"

#include <algorithm>

namespace mhv::guest {

void PageSet::add(const PageSet& other) {
  count_ = 0;
  for (std::size_t i = 0; i < words_.size(); ++i) {
    words_[i] |= other.words_[i];
    count_ += static_cast<std::uint32_t>(std::popcount(words_[i]));
  }
}

void PageSet::add_all() {
  std::fill(words_.begin(), words_.end(), ~std::uint64_t{0});
  if (pages_ % 64 != 0) words_.back() = (std::uint64_t{1} << (pages_ % 64)) - 1;
  count_ = pages_;
}

void PageSet::clear() {
  std::fill(words_.begin(), words_.end(), 0);
  count_ = 0;
}

std::uint32_t PageSet::next(std::uint32_t page) const {
  if (page >= pages_) return pages_;
  std::size_t i = page / 64;
  std::uint64_t word = words_[i] & (~std::uint64_t{0} << (page % 64));
  while (word == 0) {
    if (++i == words_.size()) return pages_;
    word = words_[i];
  }
  return static_cast<std::uint32_t>(i * 64) + static_cast<std::uint32_t>(std::countr_zero(word));
}

}  // namespace mhv::guest
