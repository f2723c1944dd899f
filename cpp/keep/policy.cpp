#include "keep/policy.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"

namespace mhv::keep {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kAgeMax = 520 * 7 * 86400 * kSecond;  // ten years of weeks

[[noreturn]] void refuse(std::string_view text) {
  throw Error(Code::kInvalid, "\"" + std::string(text.substr(0, 64)) + "\" does not say which checkpoints stay",
              "a whole number from 1 to " + std::to_string(kCountMax) + ", or up to " + std::to_string(kTiersMax) +
                  " pairs AGE:EVERY of growing times such as 1m:all,1h:1s,1d:1m (units: s, m, h, d, w)");
}

// Nanoseconds of "90s"; 0: it is no time.
std::int64_t parse_time(std::string_view text) {
  std::uint32_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end + 1 != text.data() + text.size() || number > 1'000'000) return 0;
  std::int64_t unit = 0;
  switch (*end) {
    case 's': unit = kSecond; break;
    case 'm': unit = 60 * kSecond; break;
    case 'h': unit = 3600 * kSecond; break;
    case 'd': unit = 86400 * kSecond; break;
    case 'w': unit = 7 * 86400 * kSecond; break;
    default: return 0;
  }
  const std::int64_t time = number > kAgeMax / unit ? 0 : number * unit;
  return time;
}

}  // namespace

Policy Policy::newest(std::uint32_t count) {
  Policy out;
  out.count_ = count == 0 ? kDefault : count;
  return out;
}

Policy Policy::parse(std::string_view text) {
  if (!text.empty() && text.find(':') == std::string_view::npos) {
    std::uint32_t count = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
    if (error != std::errc{} || end != text.data() + text.size() || count == 0 || count > kCountMax) refuse(text);
    return newest(count);
  }
  Policy out;
  for (std::string_view left = text; out.tiers_.size() < kTiersMax;) {
    const std::size_t comma = left.find(',');
    const std::string_view pair = left.substr(0, comma);
    const std::size_t colon = pair.find(':');
    if (colon == std::string_view::npos) refuse(text);
    const std::string_view every = pair.substr(colon + 1);
    const Tier tier{parse_time(pair.substr(0, colon)), every == "all" ? 0 : parse_time(every)};
    const Tier before = out.tiers_.empty() ? Tier{0, -1} : out.tiers_.back();
    if (tier.age_ns <= before.age_ns || tier.every_ns <= before.every_ns || (tier.every_ns == 0 && every != "all") ||
        tier.every_ns > tier.age_ns) {
      refuse(text);
    }
    out.tiers_.push_back(tier);
    if (comma == std::string_view::npos) return out;
    left = left.substr(comma + 1);
  }
  refuse(text);
}

std::vector<std::string> Policy::dropped(std::span<const Moment> all, std::int64_t now_ns) const {
  std::vector<std::string> out;
  const std::size_t over = all.size() - std::min(all.size(), count_);
  for (std::size_t i = 0; i < over; ++i) out.push_back(all[i].id);
  if (tiers_.empty()) return out;
  // By the tier that a checkpoint is in, the last EVERY of which one was seen.
  std::vector<std::int64_t> seen(tiers_.size(), INT64_MIN);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const std::int64_t created = all[i].created_ns, age = now_ns - created;
    bool first = false, stays = false;
    for (std::size_t t = 0; t < tiers_.size(); ++t) {
      const Tier& tier = tiers_[t];
      const std::int64_t slot = tier.every_ns == 0 ? 0 : created / tier.every_ns;
      first = tier.every_ns == 0 || slot != seen[t];
      seen[t] = slot;
      if (age > tier.age_ns || stays) continue;
      stays = true;
      if (!first && i + 1 < all.size() && i >= over) out.push_back(all[i].id);
    }
    if (!stays && i + 1 < all.size() && i >= over) out.push_back(all[i].id);
  }
  return out;
}

}  // namespace mhv::keep
