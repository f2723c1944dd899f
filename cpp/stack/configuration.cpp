#include "stack/configuration.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "stack/json.h"

namespace mhv::stack {
namespace {

using Json = nlohmann::json;

constexpr std::array kTypes = {"string", "integer", "number", "boolean"};
constexpr std::array kObject = {"object"};
constexpr std::uint32_t kTextMax = 4096;

[[noreturn]] void refuse_setting(const std::string& message, const std::string& hint = {}) { throw Error(Code::kInvalid, message, hint); }

}  // namespace

Configuration::Configuration(const Json& schema) {
  Members members(schema, "configuration");
  if (members.has("type")) members.choice("type", kObject);
  if (members.has("$schema")) members.text("$schema");
  if (members.has("additionalProperties") && members.truth("additionalProperties")) {
    refuse_setting("configuration.additionalProperties cannot be true");
  }
  if (members.has("properties")) {
    const Json& properties = members.at("properties");
    if (!properties.is_object() || properties.size() > kPropertiesMax) {
      refuse_setting(fmt::format("configuration.properties is not an object of up to {} members", kPropertiesMax));
    }
    for (const auto& [name, property] : properties.items()) properties_.push_back(parse_property(name, property));
  }
  if (members.has("required")) {
    const Json& required = members.at("required");
    if (!required.is_array()) refuse_setting("configuration.required is not an array");
    for (const Json& name : required) {
      const auto at = std::ranges::find_if(properties_, [&](const Property& one) { return name == one.name; });
      if (at == properties_.end()) refuse_setting("configuration.required names what is not in configuration.properties");
      at->required = true;
    }
  }
  members.nothing_else();
}

Configuration::Property Configuration::parse_property(const std::string& name, const Json& schema) {
  Members members(schema, "configuration.properties." + shown(name));
  Property out;
  out.name = name;
  out.type = static_cast<Type>(members.choice("type", kTypes));
  if (members.has("description")) members.text("description");
  if (members.has("maxLength")) out.length_max = members.number("maxLength", 0, kTextMax);
  const auto bound = [&](const char* which) -> std::optional<double> {
    if (!members.has(which)) return std::nullopt;
    if (!members.at(which).is_number()) refuse_setting(members.path_of(which) + " is not a number");
    return members.at(which).get<double>();
  };
  out.least = bound("minimum");
  out.most = bound("maximum");
  const bool listed = members.has("enum"), has_default = members.has("default");
  members.nothing_else();
  if (listed) {
    const Json& values = schema.at("enum");
    if (!values.is_array() || values.empty()) refuse_setting(members.path_of("enum") + " is not an array of values");
    for (const Json& value : values) check_value(out, value);
    out.one_of = values;
  }
  if (has_default) {
    check_value(out, schema.at("default"));
    out.fallback = schema.at("default");
  }
  return out;
}

void Configuration::check_value(const Property& property, const Json& value) {
  const bool fits = property.type == Type::kString    ? value.is_string()
                    : property.type == Type::kInteger ? value.is_number_integer()
                    : property.type == Type::kNumber  ? value.is_number()
                                                      : value.is_boolean();
  const std::string name = shown(property.name);
  if (!fits) refuse_setting(fmt::format("the setting {} is not of type {}", name, kTypes[static_cast<std::size_t>(property.type)]));
  if (value.is_string() && value.get_ref<const std::string&>().size() > property.length_max.value_or(kTextMax)) {
    refuse_setting(fmt::format("the setting {} is longer than {} bytes", name, property.length_max.value_or(kTextMax)));
  }
  if (value.is_number() &&
      ((property.least && value.get<double>() < *property.least) || (property.most && value.get<double>() > *property.most))) {
    refuse_setting(fmt::format("the setting {} is not between its minimum and its maximum", name));
  }
  if (!property.one_of.is_null() && std::ranges::find(property.one_of, value) == property.one_of.end()) {
    refuse_setting(fmt::format("the setting {} is none of those that are allowed", name), "one of: " + property.one_of.dump());
  }
}

std::string Configuration::check(std::string_view text) const {
  const Json given = text.empty() ? Json::object() : parse_json(text, kConfigurationTextMax, "the configuration");
  if (!given.is_object()) refuse_setting("the configuration is not an object");
  for (const auto& [name, value] : given.items()) {
    const auto at = std::ranges::find(properties_, name, &Property::name);
    if (at == properties_.end()) refuse_setting(fmt::format("there is no setting {}", shown(name)));
    check_value(*at, value);
  }
  Json out = given;
  for (const Property& property : properties_) {
    if (out.contains(property.name)) continue;
    if (property.required && property.fallback.is_null()) refuse_setting(fmt::format("the setting {} is missing", shown(property.name)));
    if (!property.fallback.is_null()) out[property.name] = property.fallback;
  }
  return out.dump();
}

}  // namespace mhv::stack
