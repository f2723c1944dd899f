#include "guest/page_ranges.h"

#include <algorithm>

namespace mhv::guest {
namespace {

std::uint64_t end_of(const PageRange& range) { return std::uint64_t{range.first.value} + range.count; }

}  // namespace

void normalize(std::vector<PageRange>& ranges) {
  const auto by_first = [](const PageRange& a, const PageRange& b) { return a.first < b.first; };
  if (!std::is_sorted(ranges.begin(), ranges.end(), by_first)) std::sort(ranges.begin(), ranges.end(), by_first);
  std::size_t kept = 0;
  for (const auto& range : ranges) {
    if (range.count == 0) continue;
    if (kept > 0 && range.first.value <= end_of(ranges[kept - 1])) {
      const std::uint64_t end = std::max(end_of(ranges[kept - 1]), end_of(range));
      ranges[kept - 1].count = static_cast<std::uint32_t>(end - ranges[kept - 1].first.value);
    } else {
      ranges[kept++] = range;
    }
  }
  ranges.resize(kept);
}

std::vector<PageRange> subtract(const std::vector<PageRange>& a, const std::vector<PageRange>& b) {
  std::vector<PageRange> left;
  std::size_t j = 0;
  for (const auto& range : a) {
    std::uint64_t at = range.first.value;
    const std::uint64_t end = end_of(range);
    while (j < b.size() && end_of(b[j]) <= at) ++j;
    for (std::size_t k = j; k < b.size() && b[k].first.value < end; ++k) {
      if (b[k].first.value > at) left.push_back({{static_cast<std::uint32_t>(at)}, static_cast<std::uint32_t>(b[k].first.value - at)});
      at = std::max(at, end_of(b[k]));
    }
    if (at < end) left.push_back({{static_cast<std::uint32_t>(at)}, static_cast<std::uint32_t>(end - at)});
  }
  return left;
}

std::uint64_t count_pages(const std::vector<PageRange>& ranges) {
  std::uint64_t pages = 0;
  for (const auto& range : ranges) pages += range.count;
  return pages;
}

}  // namespace mhv::guest
