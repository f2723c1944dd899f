#include "guest/page_set.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace mhv::guest {
namespace {

std::vector<PageRange> ranges(const PageSet& set, std::uint32_t longest = 1000) {
  std::vector<PageRange> out;
  set.for_each_range(longest, [&](PageRange range) { out.push_back(range); });
  return out;
}

TEST(PageSet, EmptyHasNoRanges) {
  const PageSet set(100);
  EXPECT_EQ(set.count(), 0u);
  EXPECT_TRUE(ranges(set).empty());
}

TEST(PageSet, RunsAcrossWordsAreOneRangeAndAreCutAtTheLongest) {
  PageSet set(300);
  set.add(PageRange{PageNo{60}, 100});
  EXPECT_EQ(set.count(), 100u);
  EXPECT_EQ(ranges(set), (std::vector{PageRange{PageNo{60}, 100}}));
  EXPECT_EQ(ranges(set, 64), (std::vector{PageRange{PageNo{60}, 64}, PageRange{PageNo{124}, 36}}));
}

TEST(PageSet, AddAllStopsAtTheLastPage) {
  for (const std::uint32_t pages : {1u, 63u, 64u, 65u, 128u}) {
    PageSet set(pages);
    set.add_all();
    EXPECT_EQ(set.count(), pages);
    EXPECT_EQ(ranges(set), (std::vector{PageRange{PageNo{0}, pages}}));
  }
}

TEST(PageSet, EqualsAModelUnderRandomAdds) {
  std::mt19937 random(7);
  PageSet set(1000);
  PageSet other(1000);
  std::set<std::uint32_t> model;
  for (int i = 0; i < 500; ++i) {
    const std::uint32_t page = random() % 1000;
    (i % 2 != 0 ? set : other).add(PageNo{page});
    model.insert(page);
  }
  set.add(other);
  EXPECT_EQ(set.count(), model.size());
  std::set<std::uint32_t> seen;
  for (const PageRange range : ranges(set, 3)) {
    EXPECT_LE(range.count, 3u);
    for (std::uint32_t i = 0; i < range.count; ++i) seen.insert(range.first.value + i);
  }
  EXPECT_EQ(seen, model);
}

}  // namespace
}  // namespace mhv::guest
