#include "stack/configuration.h"

#include <gtest/gtest.h>

#include "base/code_of_test.h"

namespace mhv::stack {
namespace {

using Json = nlohmann::json;

const Json kSchema = Json::parse(R"({"type": "object", "required": ["mode"], "properties": {
  "mode": {"type": "string", "enum": ["alert", "stop"], "description": "what to do"},
  "top": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
  "share": {"type": "number", "minimum": 0, "maximum": 1},
  "label": {"type": "string", "maxLength": 3},
  "all": {"type": "boolean", "default": false}}})");

TEST(ConfigurationTest, FillsInDefaults) {
  const Configuration configuration(kSchema);
  EXPECT_EQ(Json::parse(configuration.check(R"({"mode": "stop"})")), Json::parse(R"({"mode": "stop", "top": 10, "all": false})"));
  EXPECT_EQ(Json::parse(configuration.check(R"({"mode": "stop", "top": 100, "share": 0.5, "label": "abc", "all": true})"))["top"], 100);
  EXPECT_EQ(Configuration().check(""), "{}");
}

TEST(ConfigurationTest, RefusesWhatTheSchemaDoesNotAllow) {
  const Configuration configuration(kSchema);
  for (const char* text : {"", "{}", "[]", "{", R"({"mode": "wait"})", R"({"mode": 1})", R"({"mode": "stop", "top": 0})",
                           R"({"mode": "stop", "top": 101})", R"({"mode": "stop", "top": 1.5})", R"({"mode": "stop", "top": "5"})",
                           R"({"mode": "stop", "share": 1.1})", R"({"mode": "stop", "label": "abcd"})", R"({"mode": "stop", "all": 1})",
                           R"({"mode": "stop", "other": 1})", R"({"mode": "stop", "mode": "alert"})"}) {
    EXPECT_EQ(code_of([&] { configuration.check(text); }), Code::kInvalid) << text;
  }
  EXPECT_EQ(code_of([] { Configuration().check(R"({"a": 1})"); }), Code::kInvalid);
}

TEST(ConfigurationTest, RefusesOtherSchemas) {
  for (const char* text :
       {"[]", R"({"type": "array"})", R"({"oneOf": []})", R"({"additionalProperties": true})", R"({"properties": []})",
        R"({"required": ["a"]})", R"({"required": "a"})", R"({"properties": {"a": {}}})", R"({"properties": {"a": {"type": "object"}}})",
        R"({"properties": {"a": {"type": "string", "pattern": "(a+)+"}}})", R"({"properties": {"a": {"type": "integer", "default": "x"}}})",
        R"({"properties": {"a": {"type": "integer", "default": 5, "maximum": 4}}})",
        R"({"properties": {"a": {"type": "integer", "enum": []}}})", R"({"properties": {"a": {"type": "integer", "enum": ["x"]}}})",
        R"({"properties": {"a": {"type": "integer", "minimum": "x"}}})",
        R"({"properties": {"a": {"type": "string", "maxLength": 99999}}})"}) {
    EXPECT_EQ(code_of([&] { Configuration configuration(Json::parse(text)); }), Code::kInvalid) << text;
  }
  Json many;
  for (std::size_t i = 0; i <= kPropertiesMax; ++i) many["properties"]["p" + std::to_string(i)] = {{"type", "string"}};
  EXPECT_EQ(code_of([&] { Configuration configuration(many); }), Code::kInvalid);
}

}  // namespace
}  // namespace mhv::stack
