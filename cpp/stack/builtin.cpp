#include "stack/builtin.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>

#include "base/error.h"
#include "stack/json.h"

namespace mhv::stack {
namespace {

// services/*/engine.json, as they were when this was built.
constexpr const char* kManifests[] = {
#include "engine_manifests.inc"
};

const std::map<std::string, Manifest, std::less<>>& all() {
  static const std::map<std::string, Manifest, std::less<>> manifests = [] {
    std::map<std::string, Manifest, std::less<>> out;
    for (const char* text : kManifests) {
      Manifest manifest = parse_manifest(text);
      manifest.built_in = true;
      const std::string name = manifest.name;
      out.emplace(name, std::move(manifest));
    }
    return out;
  }();
  return manifests;
}

}  // namespace

bool is_built_in(std::string_view name) { return all().contains(name); }

const Manifest& built_in(std::string_view name) {
  const auto at = all().find(name);
  if (at != all().end()) return at->second;
  std::vector<std::string> names;
  for (const auto& [known, manifest] : all()) names.push_back(known);
  throw Error(Code::kNotFound, fmt::format("no service {} is part of the engine", shown(name)),
              fmt::format("part of it: {}; others come as packages (mhvctl layer install)", fmt::join(names, ", ")));
}

}  // namespace mhv::stack
