// The layers that this host has: packages in folders, manifest.json beside the program that it names. Those that came with mhvd are
// FOLDER/NAME; those that an operator installed are INSTALLED/NAME/VERSION, of which the newest counts.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mhv.pb.h"
#include "package/package.h"
#include "stack/manifest.h"

namespace mhv::mhvd {

struct LayerPackage {
  std::string folder;
  std::string text;  // of its manifest, as it stands in the file
  stack::Manifest manifest;
  bool installed = false;  // by an operator, of a vendor
};

// Thread-safe: looks at the folders anew each time, so that a package is there from its installation on.
class LayerRegistry {
 public:
  // Of two packages of one name, that of the earlier folder counts, and what is installed comes last.
  LayerRegistry(std::vector<std::string> folders, std::string installed, package::Trust trust)
      : folders_(std::move(folders)), installed_(std::move(installed)), trust_(std::move(trust)) {}

  std::vector<LayerPackage> all() const;
  // Throws kInvalid, naming those that there are.
  LayerPackage find(const std::string& name) const;
  // What is about to be started. Throws as find(), and what package::verify_installed() throws of an installed one: its vendor is not
  // allowed (any more), or its files are not what was signed.
  LayerPackage find_trusted(const std::string& name) const;
  // Checks a package and unpacks it. Throws what package::install() throws.
  LayerPackage install(const std::string& file) const;
  // As the worker is told of it. Throws as find(), and kInvalid: its configuration is not what its manifest allows.
  protocol::LayerSpec spec(const std::string& name, const protocol::ServiceOptions& options) const;
  // Throws when these services cannot be had together, or one of them not at all.
  void check(const protocol::ServiceOptions& options) const;

 private:
  std::optional<LayerPackage> look(const std::string& folder) const;
  std::vector<std::string> candidates() const;

  const std::vector<std::string> folders_;
  const std::string installed_;
  const package::Trust trust_;
};

}  // namespace mhv::mhvd
