#include "store/key_index.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>

namespace mhv::store {
namespace {

PageKey key(std::uint32_t number) {
  PageKey out;
  out.bytes[0] = 1;
  std::memcpy(out.bytes.data() + 4, &number, sizeof number);
  return out;
}

// Whatever is put in, taken out and marked: the same as in a map.
TEST(KeyIndex, IsAMap) {
  struct Known {
    Location at;
    std::uint32_t base;
    bool marked;
  };
  std::mt19937 random(1);
  KeyIndex index;
  std::map<std::uint32_t, Known> model;
  for (int step = 0; step < 200'000; ++step) {
    const std::uint32_t number = random() % 3000 + 1;
    switch (random() % 8) {
      case 0:
      case 1:
      case 2: {
        const Location at{static_cast<std::uint32_t>(random()) % kSegmentNumberMax, static_cast<std::uint32_t>(random() % 1000) * 8,
                          static_cast<std::uint32_t>(random() % kPageSize + 1)};
        const std::uint32_t base = random() % 2 == 0 ? 0 : 5000 + random() % 20;
        index.insert(key(number), at, base == 0 ? PageKey{} : key(base));
        model[number] = {at, base, true};
        break;
      }
      case 3:
      case 4:
        index.erase(key(number));
        model.erase(number);
        break;
      case 5: {
        const auto known = model.find(number);
        EXPECT_EQ(index.mark(key(number)), known != model.end() && !known->second.marked);
        if (known != model.end()) known->second.marked = true;
        break;
      }
      case 6:
        if (step % 50 != 0) break;
        index.unmark_all();
        for (auto& [_, known] : model) known.marked = false;
        break;
      default: break;
    }
    const auto found = index.find(key(number));
    const auto known = model.find(number);
    ASSERT_EQ(found.has_value(), known != model.end());
    ASSERT_EQ(index.marked(key(number)), known != model.end() && known->second.marked);
    if (!found) continue;
    ASSERT_EQ(found->at, known->second.at);
    ASSERT_EQ(found->base, known->second.base == 0 ? PageKey{} : key(known->second.base));
  }
  EXPECT_EQ(index.size(), model.size());
  std::size_t seen = 0;
  index.for_each([&](const PageKey&, const Content&) { ++seen; });
  EXPECT_EQ(seen, model.size());
}

}  // namespace
}  // namespace mhv::store
