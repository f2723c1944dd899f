#include "stack/arbiter.h"

#include <gtest/gtest.h>

#include "base/code_of_test.h"
#include "stack/builtin.h"
#include "testing_test.h"

namespace mhv::stack {
namespace {

using Json = nlohmann::json;

Manifest layer(const std::string& name, const Json& claims) { return parse_manifest(manifest_json(name, claims).dump()); }

// As if it were part of the engine: what packages may not claim yet obeys the same rules.
Manifest inside(const std::string& name, const Json& claims) {
  Manifest out = layer(name, claims);
  out.built_in = true;
  return out;
}

Json memory(const std::string& range, const std::string& access, const std::string& process = "") {
  Json claim = {{"range", range}, {"access", {access}}};
  if (!process.empty()) claim["process"] = process;
  return {{"memory", Json::array({claim})}};
}

std::string refusal(const std::vector<Manifest>& stack) {
  try {
    arbitrate(stack);
  } catch (const Error& error) {
    EXPECT_FALSE(error.hint().empty());
    return error.what();
  }
  return "granted";
}

TEST(Arbiter, ReadersGoTogether) {
  const Json reads = {{"memory", "read"}, {"written_pages", true}, {"vcpu", "read"}, {"events", {"see", "send"}}};
  const std::vector<Manifest> stack = {built_in("checkpoint"), layer("introspection", reads), layer("integrity", reads),
                                       layer("heat", reads)};
  const Arbitration out = arbitrate(stack);
  ASSERT_EQ(out.grants.size(), 4u);
  EXPECT_EQ(out.grants[1].layer, "introspection");
  EXPECT_TRUE(out.grants[3].claims.reads_ram());
}

TEST(Arbiter, MergesInterestsOfTheOneUserfaultfd) {
  Arbitration out = arbitrate(std::vector{layer("a", {{"memory", "read"}})});
  EXPECT_FALSE(out.write_protect);
  EXPECT_FALSE(out.missing);
  out = arbitrate(std::vector{layer("a", {{"memory", "read"}}), layer("b", {{"written_pages", true}})});
  EXPECT_TRUE(out.write_protect);
  EXPECT_FALSE(out.missing);
  out = arbitrate(std::vector{built_in("checkpoint"), layer("b", {{"written_pages", true}})});
  EXPECT_TRUE(out.write_protect);
  EXPECT_TRUE(out.missing);
}

TEST(Arbiter, OneWriterOfARange) {
  const auto writes = [](const std::string& name, const std::string& range, const std::string& process = "") {
    return inside(name, memory(range, "write", process));
  };
  const std::string expected = "a and b cannot be on one guest: both claim memory write (ram and kernel-text), which one layer alone may";
  EXPECT_EQ(refusal({writes("a", "ram"), writes("b", "kernel-text")}), expected);
  EXPECT_NE(refusal({writes("a", "process", "x"), writes("b", "ram")}).find("both claim memory write"), std::string::npos);
  EXPECT_NE(refusal({writes("a", "process", "x"), writes("b", "process", "x")}).find("both claim memory write"), std::string::npos);
  // Apart: what then stands in the way is the engine.
  EXPECT_EQ(refusal({writes("a", "process", "x"), writes("b", "process", "y")}).find("cannot be on one guest"), std::string::npos);
  EXPECT_EQ(refusal({writes("a", "ram"), layer("b", {{"memory", "read"}})}).find("cannot be on one guest"), std::string::npos);
}

TEST(Arbiter, OneSupplierOfMissingPages) {
  const std::string said = refusal({inside("a", memory("ram", "trap-missing")), inside("b", memory("ram", "trap-missing"))});
  EXPECT_NE(said.find("both claim memory trap-missing"), std::string::npos) << said;
}

TEST(Arbiter, OneAloneMayRestoreSetProcessorsDelayDisksOrInject) {
  for (const Json& claims : {Json{{"restore", true}}, Json{{"vcpu", "set"}}, Json{{"disk", "delay"}}, Json{{"network", "inject"}}}) {
    const std::string said = refusal({inside("a", claims), inside("b", claims)});
    EXPECT_EQ(said.find("a and b cannot be on one guest: both claim "), 0u) << said;
  }
  EXPECT_NE(refusal({built_in("checkpoint"), inside("ha", {{"restore", true}})}).find("restore"), std::string::npos);
}

TEST(Arbiter, RollbackNeedsCheckpoints) {
  const Manifest integrity = layer("integrity", {{"actions", {"rollback", "pause"}}});
  EXPECT_EQ(refusal({integrity}), "integrity claims the action rollback, and no layer of this guest makes checkpoints");
  EXPECT_EQ(refusal({integrity, built_in("checkpoint")}), "granted");
  EXPECT_EQ(refusal({layer("x", {{"actions", {"pause", "stop"}}})}), "granted");
}

TEST(Arbiter, SaysWhatTheEngineCannotGive) {
  const std::vector<std::pair<Json, const char*>> cases = {
      {memory("ram", "write"), "x claims memory write, which this engine cannot give"},
      {memory("ram", "trap-write"), "x claims memory trap-write"},
      {memory("ram", "trap-missing"), "x claims memory trap-missing"},
      {memory("kernel-text", "read"), "x claims memory of kernel-text"},
      {memory("process", "read", "nginx"), "x claims memory of process nginx"},
      {{{"restore", true}}, "x claims restore"},
      {{{"vcpu", "pause"}}, "x claims vcpu pause or set"},
      {{{"vcpu", "set"}}, "x claims vcpu pause or set"},
      {{{"network", "inject"}}, "x claims network inject"},
      {{{"disk", "see"}}, "x claims disk see"},
      {{{"disk", "delay"}}, "x claims disk delay"},
  };
  for (const auto& [claims, expected] : cases) {
    const std::vector<Manifest> stack = {layer("x", claims)};
    EXPECT_EQ(code_of([&] { arbitrate(stack); }), Code::kUnsupported) << expected;
    EXPECT_EQ(refusal(stack).find(expected), 0u) << refusal(stack);
  }
}

TEST(Arbiter, PacketFiltersStandBehindOneAnother) {
  EXPECT_EQ(refusal({layer("a", {{"network", "drop"}}), layer("b", {{"network", "hold"}}), layer("c", {{"network", "see"}}),
                     layer("d", {{"network", "drop"}})}),
            "granted");
}

TEST(Arbiter, OnlyPacketsWaitForALayer) {
  Manifest closed = layer("a", {{"network", "see"}});
  closed.policy = Policy::kFailClosed;
  EXPECT_EQ(refusal({closed}), "granted");
  closed.claims.network = NetworkClaim::kNone;
  EXPECT_EQ(refusal({closed}).find("a claims fail-closed, which this engine cannot give"), 0u);
}

TEST(Arbiter, ALayerIsInAStackOnce) {
  EXPECT_NE(
      refusal({layer("a", Json::object()), layer("b", Json::object()), layer("a", Json::object())}).find("a and a cannot be on one guest"),
      std::string::npos);
  std::vector<Manifest> many;
  for (std::size_t i = 0; i <= kLayersMax; ++i) many.push_back(layer("l" + std::to_string(i), Json::object()));
  EXPECT_EQ(code_of([&] { arbitrate(many); }), Code::kInvalid);
  many.pop_back();
  EXPECT_EQ(arbitrate(many).grants.size(), kLayersMax);
}

TEST(Arbiter, APackageIsNotPartOfTheEngineByItsName) {
  Manifest forged = layer("checkpoint", {{"restore", true}});
  forged.vendor = built_in("checkpoint").vendor;
  EXPECT_NE(refusal({forged}).find("has the name of a service that is part of the engine"), std::string::npos);
}

TEST(Arbiter, ReadsStacksOfNamesAndManifests) {
  const std::vector<std::string> texts = {"checkpoint", manifest_json("heat", {{"memory", "read"}}).dump()};
  const auto stack = read_stack(texts);
  ASSERT_EQ(stack.size(), 2u);
  EXPECT_TRUE(stack[0].built_in);
  EXPECT_EQ(arbitrate(stack).grants[1].layer, "heat");
  EXPECT_EQ(code_of([] { read_stack(std::vector<std::string>{"unheard-of"}); }), Code::kNotFound);
  try {
    read_stack(std::vector<std::string>{"checkpoint", "{}"});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "layer 2 of the stack: abi is missing");
  }
}

}  // namespace
}  // namespace mhv::stack
