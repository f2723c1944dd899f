// What a tenant may set of a layer: a subset of JSON Schema (draft 2020-12), flat.
//
//   {"type": "object", "required": [NAME...], "properties": {NAME: {"type": "string"|"integer"|"number"|"boolean",
//    "description", "default", "enum": [...], "minimum", "maximum", "maxLength"}}}
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mhv::stack {

inline constexpr std::size_t kPropertiesMax = 64;
inline constexpr std::size_t kConfigurationTextMax = 16 << 10;

class Configuration {
 public:
  Configuration() = default;
  // Throws kInvalid: that is no such schema, or a default is not what it allows.
  explicit Configuration(const nlohmann::json& schema);

  // What the layer is told: the values given, and the defaults of the others, as one JSON object. Throws kInvalid naming what is
  // wrong: not JSON, a name that the schema does not have, a value that it does not allow, one missing.
  std::string check(std::string_view text) const;

 private:
  enum class Type { kString, kInteger, kNumber, kBoolean };
  struct Property {
    std::string name;
    Type type = Type::kString;
    bool required = false;
    nlohmann::json fallback;  // null: none
    nlohmann::json one_of;    // null: any
    std::optional<double> least, most;
    std::optional<std::uint32_t> length_max;
  };
  static Property parse_property(const std::string& name, const nlohmann::json& schema);
  static void check_value(const Property& property, const nlohmann::json& value);

  std::vector<Property> properties_;
};

}  // namespace mhv::stack
