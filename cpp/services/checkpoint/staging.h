// Where pages wait between the pause, which only copies, and the store, which hashes, compresses and writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/units.h"
#include "guest/page_set.h"
#include "guest/ram.h"

namespace mhv::checkpoint {

// Memory is kept from one epoch to the next, so that a copy inside a pause meets no page fault of its own.
// Not thread-safe.
class Staging {
 public:
  // `warm_pages` are faulted in now.
  Staging(std::uint32_t guest_pages, std::uint32_t warm_pages);

  // Reads the set's pages from the guest; a page that is here already is replaced.
  void copy(const guest::Ram& ram, const guest::PageSet& pages);
  std::span<std::byte, kPageSize> add(PageNo page);
  // nullptr: the page is not here.
  const std::byte* find(PageNo page) const;
  std::span<const PageNo> pages() const { return order_; }
  void clear();

 private:
  static constexpr std::uint32_t kChunkPages = 256;
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};
  std::byte* slot(std::uint32_t index) const { return chunks_[index / kChunkPages].get() + std::size_t{index % kChunkPages} * kPageSize; }
  void grow_to(std::uint32_t slots);
  void place(PageNo page, std::uint32_t index);

  std::vector<std::unique_ptr<std::byte[]>> chunks_;
  std::vector<std::uint32_t> slot_of_;  // by PageNo
  std::vector<PageNo> order_;           // each page once
  std::uint32_t used_ = 0;              // slots
};

}  // namespace mhv::checkpoint
