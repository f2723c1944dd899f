#include "mhvd/layer_registry.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/fd.h"
#include "stack/arbiter.h"
#include "stack/builtin.h"

namespace mhv::mhvd {
namespace {

constexpr std::size_t kPackagesMax = 256;

}  // namespace

std::optional<LayerPackage> LayerRegistry::look(const std::string& folder) const {
  try {
    LayerPackage out;
    out.folder = folder;
    out.text = read_file(folder + "/manifest.json", stack::kManifestMax);
    out.manifest = stack::parse_manifest(out.text);
    return out;
  } catch (const std::exception& error) {
    spdlog::warn("layer package {} is of no use: {}", folder, error.what());
    return std::nullopt;
  }
}

std::vector<LayerPackage> LayerRegistry::all() const {
  std::vector<LayerPackage> out;
  for (const std::string& folder : folders_) {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
      if (!std::filesystem::exists(entry.path() / "manifest.json", error) || out.size() == kPackagesMax) continue;
      const std::optional<LayerPackage> package = look(entry.path().string());
      const auto same = [&](const LayerPackage& other) { return other.manifest.name == package->manifest.name; };
      if (package && std::ranges::none_of(out, same)) out.push_back(*package);
    }
  }
  std::ranges::sort(out, {}, [](const LayerPackage& package) { return package.manifest.name; });
  return out;
}

LayerPackage LayerRegistry::find(const std::string& name) const {
  std::string known = "checkpoint";
  for (LayerPackage& package : all()) {
    if (package.manifest.name == name) return std::move(package);
    known += ", " + package.manifest.name;
  }
  throw Error(Code::kInvalid, "this host has no service \"" + name.substr(0, 64) + "\"", "the services are: " + known);
}

protocol::LayerSpec LayerRegistry::spec(const std::string& name, const protocol::ServiceOptions& options) const {
  const LayerPackage package = find(name);
  const auto configuration = options.configurations().find(name);
  protocol::LayerSpec out;
  out.set_name(name);
  out.set_manifest(package.text);
  try {
    out.set_configuration(
        package.manifest.configuration.check(configuration == options.configurations().end() ? "{}" : configuration->second));
  } catch (const Error& error) {
    throw Error(error.code(), "the configuration of " + name + ": " + error.what(), error.hint());
  }
  return out;
}

void LayerRegistry::check(const protocol::ServiceOptions& options) const {
  std::vector<stack::Manifest> stack;
  for (const std::string& service : options.services()) {
    if (!stack::is_built_in(service)) spec(service, options);
    stack.push_back(stack::is_built_in(service) ? stack::built_in(service) : find(service).manifest);
  }
  stack::arbitrate(stack);
}

}  // namespace mhv::mhvd
