#include "mhvd/layer_registry.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/fd.h"
#include "stack/arbiter.h"
#include "stack/builtin.h"

namespace mhv::mhvd {
namespace {

constexpr std::size_t kPackagesMax = 256;

// Their names; none: there is no such folder.
std::vector<std::string> folders_in(const std::string& folder) {
  std::vector<std::string> out;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    std::string name = entry.path().filename().string();
    if (name[0] != '.' && entry.is_directory(error)) out.push_back(std::move(name));  // those are being unpacked
  }
  std::ranges::sort(out);
  return out;
}

LayerPackage read_package(const std::string& folder) {
  LayerPackage out;
  out.folder = folder;
  out.text = read_file(folder + "/manifest.json", stack::kManifestMax);
  out.manifest = stack::parse_manifest(out.text);
  return out;
}

}  // namespace

std::optional<LayerPackage> LayerRegistry::look(const std::string& folder) const {
  try {
    return read_package(folder);
  } catch (const std::exception& error) {
    spdlog::warn("layer package {} is of no use: {}", folder, error.what());
    return std::nullopt;
  }
}

std::vector<std::string> LayerRegistry::candidates() const {
  std::vector<std::string> out;
  for (const std::string& folder : folders_) {
    for (const std::string& name : folders_in(folder)) out.push_back(folder + "/" + name);
  }
  for (const std::string& name : folders_in(installed_)) {
    std::vector<std::string> versions = folders_in(installed_ + "/" + name);
    if (versions.empty()) continue;
    const auto newest =
        std::ranges::max_element(versions, [](const auto& a, const auto& b) { return ::strverscmp(a.c_str(), b.c_str()) < 0; });
    out.push_back(installed_ + "/" + name + "/" + *newest);
  }
  return out;
}

std::vector<LayerPackage> LayerRegistry::all() const {
  std::vector<LayerPackage> out;
  for (const std::string& folder : candidates()) {
    std::error_code error;
    if (out.size() == kPackagesMax || !std::filesystem::exists(folder + "/manifest.json", error)) continue;
    std::optional<LayerPackage> package = look(folder);
    const auto same = [&](const LayerPackage& other) { return other.manifest.name == package->manifest.name; };
    if (!package || std::ranges::any_of(out, same)) continue;
    package->installed = folder.starts_with(installed_ + "/");
    out.push_back(std::move(*package));
  }
  std::ranges::sort(out, {}, [](const LayerPackage& package) { return package.manifest.name; });
  return out;
}

LayerPackage LayerRegistry::find_trusted(const std::string& name) const {
  LayerPackage out = find(name);
  if (out.installed) out.manifest = package::verify_installed(out.folder, trust_).manifest;
  return out;
}

LayerPackage LayerRegistry::install(const std::string& file) const { return read_package(package::install(file, trust_, installed_)); }

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
