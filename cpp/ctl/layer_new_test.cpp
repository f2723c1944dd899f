#include <gtest/gtest.h>

#include <regex>

#include "ctl/layer_templates.h"
#include "stack/manifest.h"

namespace mhv::ctl {
namespace {

// test_layer_new.py builds and runs it; here it is what the engine takes.
TEST(LayerNew, HasAManifestThatTheEngineTakes) {
  const stack::Manifest manifest = stack::parse_manifest(std::regex_replace(kLayerManifest, std::regex("@NAME@"), "my-layer"));
  EXPECT_EQ(manifest.name, "my-layer");
  EXPECT_EQ(manifest.program, "my-layer");
  EXPECT_EQ(manifest.configuration.check("{}"), R"({"alert_above_mib":1024})");
}

}  // namespace
}  // namespace mhv::ctl
