// The layers that this host has: packages in folders, NAME/manifest.json beside the program that it names.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mhv.pb.h"

namespace mhv::mhvd {

struct LayerPackage {
  std::string folder;
  std::string manifest;  // as it stands in the file
  std::string name, version, vendor, program;
  bool reads_memory = false;
  std::uint32_t memory_mib = 0, cpu_percent = 0;
};

// Thread-safe: looks at the folders anew each time, so that a package is there from its installation on.
class LayerRegistry {
 public:
  // Of two packages of one name, that of the earlier folder counts.
  explicit LayerRegistry(std::vector<std::string> folders) : folders_(std::move(folders)) {}

  std::vector<LayerPackage> all() const;
  // Throws kInvalid, naming those that there are.
  LayerPackage find(const std::string& name) const;
  // Of those services that are layers. Throws as find().
  std::vector<protocol::LayerSpec> specs(const protocol::ServiceOptions& options) const;

 private:
  std::optional<LayerPackage> look(const std::string& folder) const;

  const std::vector<std::string> folders_;
};

}  // namespace mhv::mhvd
