// JSON of strangers, read strictly.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mhv::stack {

inline constexpr std::size_t kJsonDepthMax = 16;

// Throws kInvalid with `what` at its beginning: longer than `length_max`, deeper than kJsonDepthMax, a key twice in one object, not
// JSON, not UTF-8.
nlohmann::json parse_json(std::string_view text, std::size_t length_max, const std::string& what);

// What a stranger wrote, fit for a message: short and printable.
std::string shown(std::string_view text);

// The members of one object. Every getter throws kInvalid naming the member by its path ("claims.memory").
class Members {
 public:
  Members(const nlohmann::json& object, std::string path);

  bool has(const char* name) const;
  const nlohmann::json& at(const char* name);  // it must be there
  std::string text(const char* name);
  std::uint32_t number(const char* name, std::uint32_t least, std::uint32_t most);
  bool truth(const char* name);
  // One of `names`, by its index.
  std::size_t choice(const char* name, std::span<const char* const> names);
  std::set<std::size_t> choices(const char* name, std::span<const char* const> names);

  std::string path_of(const char* name) const;
  // Call it last: refuses members that were not asked for.
  void nothing_else() const;

 private:
  const nlohmann::json& object_;
  std::string path_;
  mutable std::set<std::string> known_;
};

}  // namespace mhv::stack
