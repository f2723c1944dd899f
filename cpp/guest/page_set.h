// A set of a guest's pages, one bit a page.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "base/units.h"

namespace mhv::guest {

// Not thread-safe. Pages at or past `pages` given to the constructor must not be added.
class PageSet {
 public:
  explicit PageSet(std::uint32_t pages) : pages_(pages), words_((std::size_t{pages} + 63) / 64) {}

  void add(PageNo page) { set(page.value); }
  void add(PageRange range) {
    for (std::uint32_t i = 0; i < range.count; ++i) set(range.first.value + i);
  }
  void add(std::span<const PageRange> ranges) {
    for (const PageRange range : ranges) add(range);
  }
  void add(const PageSet& other);
  void remove(PageNo page) {
    std::uint64_t& word = words_[page.value / 64];
    const std::uint64_t bit = std::uint64_t{1} << (page.value % 64);
    count_ -= (word & bit) != 0;
    word &= ~bit;
  }
  void add_all();
  void clear();
  bool contains(PageNo page) const { return (words_[page.value / 64] >> (page.value % 64) & 1) != 0; }
  std::uint32_t count() const { return count_; }

  // The pages as ascending runs of at most `longest` pages. `visit(PageRange)`.
  template <typename Visit>
  void for_each_range(std::uint32_t longest, Visit&& visit) const {
    std::uint32_t page = next(0);
    while (page < pages_) {
      std::uint32_t end = page + 1;
      while (end < pages_ && end - page < longest && contains(PageNo{end})) ++end;
      visit(PageRange{PageNo{page}, end - page});
      page = next(end);
    }
  }

 private:
  void set(std::uint32_t page) {
    std::uint64_t& word = words_[page / 64];
    const std::uint64_t bit = std::uint64_t{1} << (page % 64);
    count_ += (word & bit) == 0;
    word |= bit;
  }
  // The first page of the set at or after `page`; pages_ when there is none.
  std::uint32_t next(std::uint32_t page) const;

  std::uint32_t pages_;
  std::uint32_t count_ = 0;
  std::vector<std::uint64_t> words_;
};

}  // namespace mhv::guest
