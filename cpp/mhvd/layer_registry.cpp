#include "mhvd/layer_registry.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/fd.h"

namespace mhv::mhvd {
namespace {

constexpr std::size_t kManifestBytesMax = 64 << 10;
constexpr std::size_t kPackagesMax = 256;

}  // namespace

std::optional<LayerPackage> LayerRegistry::look(const std::string& folder) const {
  try {
    LayerPackage out;
    out.folder = folder;
    out.manifest = read_file(folder + "/manifest.json", kManifestBytesMax);
    const auto json = nlohmann::json::parse(out.manifest);
    out.name = json.at("name");
    out.version = json.at("version");
    out.vendor = json.at("vendor");
    out.program = json.at("program");
    out.reads_memory = json.value("claims", nlohmann::json::object()).value("memory", "none") == "read";
    const auto resources = json.value("resources", nlohmann::json::object());
    out.memory_mib = resources.value("memory_mib", 64u);
    out.cpu_percent = resources.value("cpu_percent", 100u);
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
      const auto same = [&](const LayerPackage& other) { return other.name == package->name; };
      if (package && std::ranges::none_of(out, same)) out.push_back(*package);
    }
  }
  std::ranges::sort(out, {}, &LayerPackage::name);
  return out;
}

LayerPackage LayerRegistry::find(const std::string& name) const {
  std::string known = "checkpoint";
  for (LayerPackage& package : all()) {
    if (package.name == name) return std::move(package);
    known += ", " + package.name;
  }
  throw Error(Code::kInvalid, "this host has no service \"" + name.substr(0, 64) + "\"", "the services are: " + known);
}

std::vector<protocol::LayerSpec> LayerRegistry::specs(const protocol::ServiceOptions& options) const {
  std::vector<protocol::LayerSpec> out;
  for (const std::string& service : options.services()) {
    if (service == "checkpoint") continue;
    protocol::LayerSpec& spec = out.emplace_back();
    spec.set_name(service);
    spec.set_manifest(find(service).manifest);
    const auto configuration = options.configurations().find(service);
    if (configuration != options.configurations().end()) spec.set_configuration(configuration->second);
  }
  return out;
}

}  // namespace mhv::mhvd
