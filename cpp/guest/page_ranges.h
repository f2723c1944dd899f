// Arithmetic on ascending lists of page ranges.
#pragma once

#include <vector>

#include "base/units.h"

namespace mhv::guest {

// Sorts, and joins ranges that touch or overlap.
void normalize(std::vector<PageRange>& ranges);
// What is in `a` and not in `b`; both normalized.
std::vector<PageRange> subtract(const std::vector<PageRange>& a, const std::vector<PageRange>& b);
std::uint64_t count_pages(const std::vector<PageRange>& ranges);

}  // namespace mhv::guest
