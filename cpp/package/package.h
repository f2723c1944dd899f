// Packages of layers: made and signed by a vendor, let in by an operator.
//
//   NAME-VERSION.tar   manifest.json, the program and what it needs, signature          package/archive.h, package/listing.h
//   VENDORS/VENDOR.pem the public keys of the vendors that the operator allows          /etc/nova-mhv/vendors
//   REVOKED            lines `key FINGERPRINT` and `package VENDOR/NAME/VERSION`        /etc/nova-mhv/revoked
//   LAYERS/NAME/VERSION what is installed: the same files, the signature too            /var/lib/nova-mhv/layers
//
// INVARIANT: a folder LAYERS/NAME/VERSION is there only as a whole, and only of a package whose signature was good when it came.
#pragma once

#include <string>

#include "stack/manifest.h"

namespace mhv::package {

inline constexpr const char* kVendorsFolder = "/etc/nova-mhv/vendors";
inline constexpr const char* kRevokedFile = "/etc/nova-mhv/revoked";
inline constexpr const char* kLayersFolder = "/var/lib/nova-mhv/layers";

// Whom the operator trusts.
struct Trust {
  std::string vendors_folder = kVendorsFolder;
  std::string revoked_file = kRevokedFile;  // not there: nothing is revoked
};

struct Package {
  stack::Manifest manifest;
  std::string key;  // fingerprint of the vendor's key
};

// Checks the folder's manifest, signs its files with the private key, and writes them to `output`. Throws what read_folder and
// parse_manifest throw, and kInvalid when its program is not there or not executable.
stack::Manifest pack(const std::string& folder, const std::string& key_file, const std::string& output);

// Throws kPermission: not signed, signed by nobody that is trusted, revoked; kVersion: another ABI; kInvalid, kCorrupt: no package.
Package verify(const std::string& file, const Trust& trust);

// The same of what is installed, as it is now: before each start of a layer.
Package verify_installed(const std::string& folder, const Trust& trust);

// Verifies and unpacks. Returns the folder LAYERS/NAME/VERSION. Throws what verify throws, kExists, and kPermission when the layer's other
// versions are of another vendor.
std::string install(const std::string& file, const Trust& trust, const std::string& layers_folder);

}  // namespace mhv::package
