#include "jail/subordinate.h"

#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace mhv::jail {
namespace {

constexpr std::size_t kFileMax = 1 << 20;

std::optional<std::uint32_t> number(std::string_view text) {
  std::uint32_t out = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return out;
}

std::optional<IdRange> parse_line(std::string_view line, std::string_view user) {
  const std::size_t one = line.find(':');
  if (one == std::string_view::npos || line.substr(0, one) != user) return std::nullopt;
  const std::size_t two = line.find(':', one + 1);
  if (two == std::string_view::npos) return std::nullopt;
  const auto first = number(line.substr(one + 1, two - one - 1));
  const auto count = number(line.substr(two + 1));
  if (!first || !count || *first == 0 || *count == 0 || *count > UINT32_MAX - *first) return std::nullopt;
  return IdRange{*first, *count};
}

std::optional<IdRange> range_in(const char* file, const std::string& user) {
  try {
    return subordinate_range(read_file(file, kFileMax), user);
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace

std::optional<IdRange> subordinate_range(std::string_view text, std::string_view user) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    if (const auto range = parse_line(text.substr(0, end), user)) return range;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return std::nullopt;
}

IdRange own_subordinates() {
  const passwd* const entry = ::getpwuid(::getuid());
  const std::string user = entry != nullptr ? entry->pw_name : std::to_string(::getuid());
  const auto uids = range_in("/etc/subuid", user), gids = range_in("/etc/subgid", user);
  if (uids && gids) {
    const std::uint32_t first = std::max(uids->first, gids->first);
    const std::uint32_t end = std::min(uids->first + uids->count, gids->first + gids->count);
    if (first < end) return {first, end - first};
  }
  throw Error(Code::kUnsupported, "user " + user + " has no range of user ids for its layers in /etc/subuid and /etc/subgid",
              "usermod --add-subuids 2130706432-2130771967 --add-subgids 2130706432-2130771967 " + user);
}

}  // namespace mhv::jail
