// The user ids that a user may give to sandboxes of its own: /etc/subuid, /etc/subgid (subuid(5)).
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace mhv::jail {

struct IdRange {
  std::uint32_t first = 0, count = 0;
  bool contains(std::uint32_t id) const { return id >= first && id - first < count; }
};

// The first range of `user` (a name or a number) in such a file's text; lines that are none are passed over. Pure.
std::optional<IdRange> subordinate_range(std::string_view text, std::string_view user);

// The ids that are in the calling user's range in both files. Throws kUnsupported with the command that makes one.
IdRange own_subordinates();

}  // namespace mhv::jail
