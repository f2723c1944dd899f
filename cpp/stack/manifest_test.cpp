#include "stack/manifest.h"

#include <gtest/gtest.h>

#include "base/code_of_test.h"
#include "stack/builtin.h"
#include "testing_test.h"

namespace mhv::stack {
namespace {

using Json = nlohmann::json;

std::string message_of(const std::string& text) {
  try {
    parse_manifest(text);
  } catch (const Error& error) {
    return error.what();
  }
  return "taken";
}

std::string message_with(const char* name, const Json& value) {
  Json json = manifest_json("heat");
  json[name] = value;
  return message_of(json.dump());
}

TEST(ManifestTest, TakesAWholeOne) {
  const Manifest manifest = parse_manifest(R"({
    "name": "heat-map", "version": "1.2.0-rc1", "vendor": "acme", "abi": 1, "program": "bin/heat.py",
    "claims": {"memory": [{"range": "ram", "access": ["read"]}, {"range": "process", "process": "nginx", "access": ["read", "trap-write"]}],
               "written_pages": true, "vcpu": "read", "network": "hold", "disk": "see", "events": ["see", "send"],
               "actions": ["checkpoint", "pause"]},
    "resources": {"memory_mib": 128, "cpu_percent": 20, "epoch_ms": 25, "budget_ms": 5},
    "policy": "fail-closed",
    "configuration": {"type": "object", "properties": {"top": {"type": "integer", "default": 10, "minimum": 1}}}})");
  EXPECT_EQ(manifest.name, "heat-map");
  EXPECT_EQ(manifest.program, "bin/heat.py");
  EXPECT_TRUE(manifest.claims.reads_ram());
  EXPECT_TRUE(manifest.claims.has(MemoryAccess::kTrapWrite));
  EXPECT_EQ(manifest.claims.memory[1].range.process, "nginx");
  EXPECT_TRUE(manifest.claims.written_pages);
  EXPECT_EQ(manifest.claims.vcpu, VcpuClaim::kRead);
  EXPECT_EQ(manifest.claims.network, NetworkClaim::kHold);
  EXPECT_EQ(manifest.claims.disk, DiskClaim::kSee);
  EXPECT_EQ(manifest.claims.actions, (std::set{Action::kCheckpoint, Action::kPause}));
  EXPECT_EQ(manifest.resources.budget_ms, 5u);
  EXPECT_EQ(manifest.policy, Policy::kFailClosed);
  EXPECT_EQ(manifest.configuration.check(R"({})"), R"({"top":10})");
}

TEST(ManifestTest, ClaimsNothingByDefault) {
  const Manifest manifest = parse_manifest(manifest_json("a").dump());
  EXPECT_TRUE(manifest.claims.memory.empty());
  EXPECT_EQ(manifest.claims.network, NetworkClaim::kNone);
  EXPECT_FALSE(manifest.built_in);
  EXPECT_EQ(manifest.resources.memory_mib, 64u);
  EXPECT_FALSE(parse_manifest(manifest_json("a", {{"memory", "none"}}).dump()).claims.reads_ram());
  EXPECT_TRUE(parse_manifest(manifest_json("a", {{"memory", "read"}}).dump()).claims.reads_ram());
}

TEST(ManifestTest, RefusesNamesThatAreNone) {
  for (const char* name : {"", "A", "1a", "a_b", "a/b", "..", "a b", "abcdefghijklmnopqrstuvwxyzabcdefg"}) {
    EXPECT_EQ(code_of([&] { parse_manifest(manifest_json(name).dump()); }), Code::kInvalid) << name;
    EXPECT_NE(message_with("vendor", name), "taken") << name;
  }
  for (const char* version : {"", "..", "v1", "1/..", "1 2", "123456789012345678901234567890123"}) {
    EXPECT_NE(message_with("version", version), "taken") << version;
  }
  for (const char* program : {"", "/bin/sh", "../x", "a/../b", "a//b", "a/", ".hidden", "a/.b", "a b", "a\nb"}) {
    EXPECT_NE(message_with("program", program), "taken") << program;
  }
  EXPECT_EQ(message_with("program", "lib/layer-1.0_x.py"), "taken");
}

TEST(ManifestTest, NamesWhatIsNotKnown) {
  EXPECT_EQ(message_with("nmae", 1), "\"nmae\" is not known");
  EXPECT_EQ(message_with("claims", {{"memroy", "read"}}), "claims.\"memroy\" is not known");
  EXPECT_EQ(message_with("resources", {{"disk", 1}}), "resources.\"disk\" is not known");
  EXPECT_EQ(message_with("claims", {{"memory", "write"}}), "claims.memory cannot be \"write\"");
  EXPECT_EQ(message_with("claims", {{"actions", {"reboot"}}}), "claims.actions cannot be \"reboot\"");
  EXPECT_EQ(message_with("policy", "open"), "policy cannot be \"open\"");
  EXPECT_EQ(message_with("claims", {{"written_pages", 1}}), "claims.written_pages is neither true nor false");
}

TEST(ManifestTest, AnotherAbiIsThatErrorFirst) {
  Json json = manifest_json("a");
  json["abi"] = 2;
  json["of the future"] = true;
  EXPECT_EQ(code_of([&] { parse_manifest(json.dump()); }), Code::kVersion);
  json["abi"] = 0;
  EXPECT_EQ(code_of([&] { parse_manifest(json.dump()); }), Code::kVersion);
  json["abi"] = "1";
  EXPECT_EQ(code_of([&] { parse_manifest(json.dump()); }), Code::kInvalid);
  json.erase("abi");
  EXPECT_EQ(message_of(json.dump()), "abi is missing");
}

TEST(ManifestTest, NumbersHaveLimits) {
  EXPECT_NE(message_with("resources", {{"memory_mib", 7}}), "taken");
  EXPECT_NE(message_with("resources", {{"memory_mib", -1}}), "taken");
  EXPECT_NE(message_with("resources", {{"memory_mib", 1e3}}), "taken");
  EXPECT_NE(message_with("resources", {{"cpu_percent", 0}}), "taken");
  EXPECT_EQ(message_with("resources", {{"epoch_ms", 10}, {"budget_ms", 11}}), "resources.budget_ms is more than resources.epoch_ms");
  Json json = manifest_json("a");
  json["resources"] = {{"epoch_ms", 25}};
  EXPECT_EQ(parse_manifest(json.dump()).resources.budget_ms, 25u);
}

TEST(ManifestTest, HostileTextIsRefused) {
  EXPECT_EQ(code_of([] { parse_manifest(std::string(kManifestMax + 1, ' ')); }), Code::kInvalid);
  EXPECT_NE(message_of(std::string(60'000, '[')).find("nested deeper"), std::string::npos);
  EXPECT_NE(message_of(R"({"name": "a", "name": "b"})").find("twice"), std::string::npos);
  for (const char* text : {"", "null", "[]", "1", "\"x\"", "{", "{}", "{\"abi\":1}", "{\"abi\":1e999}", "{\"a\xff\":1}", "{\"abi\":1}{"}) {
    EXPECT_EQ(code_of([&] { parse_manifest(text); }), Code::kInvalid) << text;
  }
  const std::string said = message_with("\x1b[2J\nname", 1);
  EXPECT_EQ(said.find_first_of("\x1b\n"), std::string::npos) << said;
  EXPECT_LT(message_with(std::string(50'000, 'x').c_str(), 1).size(), 400u);
}

TEST(ManifestTest, TooManyRangesAreRefused) {
  Json ranges = Json::array();
  for (int i = 0; i < 17; ++i) ranges.push_back({{"range", "ram"}, {"access", {"read"}}});
  EXPECT_NE(message_with("claims", {{"memory", ranges}}), "taken");
  EXPECT_NE(message_with("claims", {{"memory", {{{"range", "ram"}, {"access", Json::array()}}}}}), "taken");
  EXPECT_NE(message_with("claims", {{"memory", {{{"range", "process"}, {"access", {"read"}}}}}}), "taken");
  EXPECT_NE(message_with("claims", {{"memory", {{{"range", "ram"}, {"process", "x"}, {"access", {"read"}}}}}}), "taken");
}

TEST(BuiltIn, HasCheckpoint) {
  EXPECT_TRUE(built_in("checkpoint").built_in);
  EXPECT_TRUE(built_in("checkpoint").claims.restore);
  EXPECT_FALSE(is_built_in("heat-map"));
  EXPECT_EQ(code_of([] { built_in("heat-map"); }), Code::kNotFound);
}

}  // namespace
}  // namespace mhv::stack
