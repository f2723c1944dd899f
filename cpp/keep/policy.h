// Which automatic checkpoints stay.
//
//   "10"                   the newest ten
//   "1m:all,1h:1s,1d:1m"   of the last minute all, of the last hour one a second, of the last day one a minute, then none
//
// AGE:EVERY pairs, separated by commas; AGE is a number of s, m, h, d or w, EVERY the same or "all"; both grow from pair to pair.
// Of each EVERY, counted from 1970, the oldest checkpoint stays: so what stays now stays until it reaches the next AGE, and
// deciding again drops nothing but what has grown older. The newest always stays, for the next one stands on it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mhv::keep {

inline constexpr std::uint32_t kDefault = 10;
inline constexpr std::uint32_t kCountMax = 10'000;
// Whatever a policy says, no more than this stay.
inline constexpr std::size_t kStayMax = 20'000;
inline constexpr std::size_t kTiersMax = 8;

struct Moment {
  std::string id;
  std::int64_t created_ns = 0;
};

class Policy {
 public:
  // A number, or pairs as above. Throws kInvalid with what is valid.
  static Policy parse(std::string_view text);
  static Policy newest(std::uint32_t count);  // 0: the default

  // The ids of those that go, oldest first. `all` oldest first; takes time in proportion to it. Pure.
  std::vector<std::string> dropped(std::span<const Moment> all, std::int64_t now_ns) const;

 private:
  struct Tier {
    std::int64_t age_ns = 0;
    std::int64_t every_ns = 0;  // 0: all
  };
  std::size_t count_ = kStayMax;
  std::vector<Tier> tiers_;  // none: only the number counts
};

}  // namespace mhv::keep
