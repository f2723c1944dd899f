#include "checkpoint/staging.h"

#include <algorithm>

namespace mhv::checkpoint {

Staging::Staging(std::uint32_t guest_pages, std::uint32_t warm_pages) : slot_of_(guest_pages, kNone) {
  order_.reserve(warm_pages);
  grow_to(warm_pages);
}

void Staging::grow_to(std::uint32_t slots) {
  // make_unique writes zeros, so the chunk's memory is there afterwards
  while (chunks_.size() * kChunkPages < slots) chunks_.push_back(std::make_unique<std::byte[]>(kChunkPages * kPageSize));
}

void Staging::place(PageNo page, std::uint32_t index) {
  std::uint32_t& slot = slot_of_[page.value];
  if (slot == kNone) order_.push_back(page);
  slot = index;
}

std::span<std::byte, kPageSize> Staging::add(PageNo page) {
  grow_to(used_ + 1);
  place(page, used_);
  return std::span<std::byte, kPageSize>(slot(used_++), kPageSize);
}

void Staging::copy(const guest::Ram& ram, const guest::PageSet& pages) {
  pages.for_each_range(kChunkPages, [&](PageRange range) {
    while (range.count > 0) {
      const guest::RamBlock& block = ram.block_of(range.first);
      const std::uint64_t block_end = block.first.value + block.bytes / kPageSize;
      const std::uint32_t chunk_left = kChunkPages - used_ % kChunkPages;
      const auto count = static_cast<std::uint32_t>(std::min<std::uint64_t>({range.count, chunk_left, block_end - range.first.value}));
      grow_to(used_ + count);
      ram.read({range.first, count}, {slot(used_), std::size_t{count} * kPageSize});
      for (std::uint32_t i = 0; i < count; ++i) place(PageNo{range.first.value + i}, used_ + i);
      used_ += count;
      range = {PageNo{range.first.value + count}, range.count - count};
    }
  });
}

const std::byte* Staging::find(PageNo page) const {
  const std::uint32_t index = slot_of_[page.value];
  return index == kNone ? nullptr : slot(index);
}

void Staging::clear() {
  for (const PageNo page : order_) slot_of_[page.value] = kNone;
  order_.clear();
  used_ = 0;
}

}  // namespace mhv::checkpoint
