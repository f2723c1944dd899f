#include "stack/json.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"

namespace mhv::stack {
namespace {

using Json = nlohmann::json;

[[noreturn]] void refuse(const std::string& message, const std::string& hint = {}) { throw Error(Code::kInvalid, message, hint); }

std::size_t index_of(const Json& value, std::span<const char* const> names, const std::string& path) {
  const std::string text = value.is_string() ? value.get<std::string>() : "";
  const auto at = std::ranges::find(names, text);
  if (at == names.end()) {
    refuse(fmt::format("{} cannot be {}", path, value.is_string() ? shown(text) : std::string(value.type_name())),
           fmt::format("one of: {}", fmt::join(names, ", ")));
  }
  return static_cast<std::size_t>(at - names.begin());
}

}  // namespace

Json parse_json(std::string_view text, std::size_t length_max, const std::string& what) {
  if (text.size() > length_max) refuse(fmt::format("{} has {} bytes, and may have {}", what, text.size(), length_max));
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    using Event = Json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      if (static_cast<std::size_t>(depth) >= kJsonDepthMax) refuse(fmt::format("{} is nested deeper than {} times", what, kJsonDepthMax));
      keys.emplace_back();
    } else if (event == Event::object_end || event == Event::array_end) {
      keys.pop_back();
    } else if (event == Event::key && !keys.back().insert(value.get<std::string>()).second) {
      refuse(fmt::format("{} has {} twice in one object", what, shown(value.get<std::string>())));
    }
    return true;
  };
  try {
    return Json::parse(text, watch);
  } catch (const Json::exception& error) {
    refuse(fmt::format("{} is no JSON: {}", what, shown(error.what())));
  }
}

std::string shown(std::string_view text) {
  constexpr std::size_t kMax = 128;
  std::string out = "\"";
  for (const char c : text.substr(0, kMax)) out += c >= ' ' && c <= '~' && c != '"' ? c : '?';
  return out + (text.size() > kMax ? "...\"" : "\"");
}

Members::Members(const Json& object, std::string path) : object_(object), path_(std::move(path)) {
  if (!object.is_object()) refuse(fmt::format("{} is not an object", path_.empty() ? "the whole" : path_));
}

std::string Members::path_of(const char* name) const { return path_.empty() ? name : path_ + "." + name; }

bool Members::has(const char* name) const {
  known_.insert(name);
  return object_.contains(name);
}

const Json& Members::at(const char* name) {
  if (!has(name)) refuse(path_of(name) + " is missing");
  return object_.at(name);
}

std::string Members::text(const char* name) {
  const Json& value = at(name);
  if (!value.is_string()) refuse(path_of(name) + " is not a string");
  return value.get<std::string>();
}

std::uint32_t Members::number(const char* name, std::uint32_t least, std::uint32_t most) {
  const Json& value = at(name);
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() < least || value.get<std::uint64_t>() > most) {
    refuse(fmt::format("{} is not a whole number from {} to {}", path_of(name), least, most));
  }
  return static_cast<std::uint32_t>(value.get<std::uint64_t>());
}

bool Members::truth(const char* name) {
  const Json& value = at(name);
  if (!value.is_boolean()) refuse(path_of(name) + " is neither true nor false");
  return value.get<bool>();
}

std::size_t Members::choice(const char* name, std::span<const char* const> names) { return index_of(at(name), names, path_of(name)); }

std::set<std::size_t> Members::choices(const char* name, std::span<const char* const> names) {
  const Json& value = at(name);
  if (!value.is_array()) refuse(path_of(name) + " is not an array");
  std::set<std::size_t> out;
  for (const Json& one : value) out.insert(index_of(one, names, path_of(name)));
  return out;
}

void Members::nothing_else() const {
  for (const auto& [key, value] : object_.items()) {
    if (!known_.contains(key)) {
      refuse(fmt::format("{}{} is not known", path_.empty() ? "" : path_ + ".", shown(key)),
             fmt::format("known are: {}", fmt::join(known_, ", ")));
    }
  }
}

}  // namespace mhv::stack
