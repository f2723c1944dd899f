#include "base/text.h"

#include <gtest/gtest.h>

namespace mhv {
namespace {

TEST(Beginning, EndsWithAWholeCharacter) {
  EXPECT_EQ(beginning("abc", 3), "abc");
  EXPECT_EQ(beginning("abc", 2), "ab");
  EXPECT_EQ(beginning("a\u00e9b", 2), "a");
  EXPECT_EQ(beginning("a\u00e9b", 3), "a\u00e9");
  EXPECT_EQ(beginning("\U0001f600", 3), "");
  EXPECT_EQ(beginning("\U0001f600", 4), "\U0001f600");
}

}  // namespace
}  // namespace mhv
