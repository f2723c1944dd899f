// The layers that this host has: packages in folders, NAME/manifest.json beside the program that it names.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mhv.pb.h"
#include "stack/manifest.h"

namespace mhv::mhvd {

struct LayerPackage {
  std::string folder;
  std::string text;  // of its manifest, as it stands in the file
  stack::Manifest manifest;
};

// Thread-safe: looks at the folders anew each time, so that a package is there from its installation on.
class LayerRegistry {
 public:
  // Of two packages of one name, that of the earlier folder counts.
  explicit LayerRegistry(std::vector<std::string> folders) : folders_(std::move(folders)) {}

  std::vector<LayerPackage> all() const;
  // Throws kInvalid, naming those that there are.
  LayerPackage find(const std::string& name) const;
  // As the worker is told of it. Throws as find(), and kInvalid: its configuration is not what its manifest allows.
  protocol::LayerSpec spec(const std::string& name, const protocol::ServiceOptions& options) const;
  // Throws when these services cannot be had together, or one of them not at all.
  void check(const protocol::ServiceOptions& options) const;

 private:
  std::optional<LayerPackage> look(const std::string& folder) const;

  const std::vector<std::string> folders_;
};

}  // namespace mhv::mhvd
