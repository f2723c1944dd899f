#include "keys/key.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>

#include "base/error.h"

namespace mhv::keys {
namespace {

std::string hex(const Key& key) {
  std::string out;
  char two[3];
  for (const std::uint8_t byte : key.bytes) {
    std::snprintf(two, sizeof two, "%02x", byte);
    out += two;
  }
  return out;
}

// As hmac(hmac(salt, key), info + "\1") of another implementation.
TEST(Keys, AreDerivedAsTheStandardSays) {
  Key key;
  std::iota(key.bytes.begin(), key.bytes.end(), std::uint8_t{1});
  const std::array<std::uint8_t, 4> salt{9, 8, 7, 6};
  EXPECT_EQ(hex(derive(key, salt, "what it is for")), "2f2e12d53cc4d72a9c5f14f07d4be55a54ff1283ca0a6f8f1e6b17348376435f");
  EXPECT_EQ(hex(derive(key, {}, "what it is for")), "8ba90e618dff3698c6a91507df8d001ccf6cbb380b60446e26c1e7a79a535a98");
  EXPECT_NE(hex(derive(key, salt, "something else")), hex(derive(key, salt, "what it is for")));
}

TEST(Keys, HaveOneLength) {
  EXPECT_EQ(Key(std::string(32, 'x')).text(), std::string(32, 'x'));
  for (const std::size_t bytes : {0, 31, 33}) EXPECT_THROW(Key{std::string(bytes, 'x')}, Error);
}

}  // namespace
}  // namespace mhv::keys
