#include "package/package.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "base/error.h"
#include "base/fd.h"
#include "package/archive.h"
#include "stack/json.h"

namespace mhv::package {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kRevokedMax = 1 << 20;

stack::Manifest check_manifest(const Contents& contents) {
  stack::Manifest manifest = stack::parse_manifest(contents.manifest);
  const auto& entries = contents.listing.entries();
  const auto program = entries.find(manifest.program);
  if (program == entries.end() || !program->second.executable) {
    throw Error(Code::kInvalid, fmt::format("the package's program {} is not there, or not executable", stack::shown(manifest.program)),
                "`program` in manifest.json is a path in the package; chmod +x");
  }
  return manifest;
}

// A line that cannot be read revokes everything: rather no layer than one that was meant.
bool is_revoked(const std::string& revoked_file, const std::string& key, const std::string& package) {
  if (!fs::exists(revoked_file)) return false;
  std::istringstream lines(read_file(revoked_file, kRevokedMax));
  bool out = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line.starts_with('#')) continue;
    if (line.starts_with("key ") && line.size() == 4 + 64) {
      out |= line.substr(4) == key;
    } else if (line.starts_with("package ") && line.find(' ', 8) == std::string::npos) {
      out |= line.substr(8) == package;
    } else {
      throw Error(Code::kInvalid, fmt::format("{} has a line that it cannot have: {}", revoked_file, stack::shown(line)),
                  "`key FINGERPRINT`, or `package VENDOR/NAME/VERSION`");
    }
  }
  return out;
}

Package check(const Contents& contents, const Trust& trust) {
  Package out{check_manifest(contents), {}};
  const stack::Manifest& manifest = out.manifest;
  if (!contents.signature) {
    throw Error(Code::kPermission, fmt::format("the package of {} is not signed", manifest.name),
                "its vendor makes it with mhvctl layer pack");
  }
  const std::string key_file = trust.vendors_folder + "/" + manifest.vendor + ".pem";
  if (!fs::exists(key_file)) {
    throw Error(Code::kPermission, fmt::format("the vendor {} of {} is not allowed here", manifest.vendor, manifest.name),
                "an operator who trusts it puts its public key there: " + key_file);
  }
  const PublicKey key = PublicKey::read(key_file);
  if (!key.verifies(contents.listing.text(), *contents.signature)) {
    throw Error(Code::kPermission, fmt::format("the package of {} is not what {} signed", manifest.name, manifest.vendor),
                "it was altered, or signed with another key than " + key_file);
  }
  out.key = key.fingerprint();
  const std::string package = manifest.vendor + "/" + manifest.name + "/" + manifest.version;
  if (is_revoked(trust.revoked_file, out.key, package)) {
    throw Error(Code::kPermission, fmt::format("{} is revoked, or the key that it was signed with", package),
                "see " + trust.revoked_file + "; ask the vendor for a newer package");
  }
  return out;
}

// A folder that is gone with its object, unless it was moved away.
class Staging {
 public:
  explicit Staging(const std::string& beside) : path_(beside + "/.new-XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr) throw_errno("cannot make a folder in " + beside);
  }
  ~Staging() {
    std::error_code gone;
    fs::remove_all(path_, gone);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  const std::string& path() const { return path_; }

  Sink make_file(const std::string& path, bool executable) const {
    const std::string file = path_ + "/" + path;
    fs::create_directories(fs::path(file).parent_path());
    const auto fd = std::make_shared<Fd>(Fd::open(file, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
    if (::fchmod(fd->get(), executable ? 0755 : 0644) != 0) throw_errno("cannot set the mode of " + file);
    return [fd](std::span<const std::byte> data) { write_all(fd->get(), data, "a package's file"); };
  }

  // Durable, and readable by the layer's user.
  void finish() const {
    for (const fs::directory_entry& one : fs::recursive_directory_iterator(path_)) {
      if (one.is_directory()) fs::permissions(one.path(), fs::perms(0755));
      const Fd fd = Fd::open(one.path(), O_RDONLY);
      if (::fsync(fd.get()) != 0) throw_errno("cannot write " + one.path().string());
    }
    fs::permissions(path_, fs::perms(0755));
    fsync_directory(path_);
  }

 private:
  std::string path_;
};

void check_vendor(const fs::path& versions, const stack::Manifest& manifest) {
  for (const fs::directory_entry& version : fs::directory_iterator(versions)) {
    const fs::path file = version.path() / kManifestName;
    if (!fs::exists(file)) continue;
    const std::string vendor = stack::parse_manifest(read_file(file, stack::kManifestMax)).vendor;
    if (vendor != manifest.vendor) {
      throw Error(Code::kPermission,
                  fmt::format("{} is a layer of {} here, and the package is of {}", manifest.name, vendor, manifest.vendor),
                  "a vendor cannot take over another one's layer; remove " + versions.string() + " first if it should");
    }
  }
}

}  // namespace

stack::Manifest pack(const std::string& folder, const std::string& key_file, const std::string& output) {
  const Contents contents = read_folder(folder);
  stack::Manifest manifest = check_manifest(contents);
  write_archive(output, folder, contents, sign(key_file, contents.listing.text()));
  return manifest;
}

Package verify(const std::string& file, const Trust& trust) {
  return check(read_archive(file, [](const std::string&, bool) { return Sink(); }), trust);
}

Package verify_installed(const std::string& folder, const Trust& trust) { return check(read_folder(folder), trust); }

std::string install(const std::string& file, const Trust& trust, const std::string& layers_folder) {
  fs::create_directories(layers_folder);
  const Staging staging(layers_folder);
  // Nothing is run or read from there before its signature is checked; what fails is removed.
  const Contents contents =
      read_archive(file, [&](const std::string& path, bool executable) { return staging.make_file(path, executable); });
  const Package package = check(contents, trust);
  const fs::path versions = fs::path(layers_folder) / package.manifest.name;
  const fs::path target = versions / package.manifest.version;
  fs::create_directories(versions);
  check_vendor(versions, package.manifest);
  if (fs::exists(target)) {
    throw Error(Code::kExists, fmt::format("{} {} is installed already", package.manifest.name, package.manifest.version),
                "a change gets a new version; or remove " + target.string());
  }
  staging.finish();
  fs::rename(staging.path(), target);
  fsync_directory(versions.string());
  return target.string();
}

}  // namespace mhv::package
