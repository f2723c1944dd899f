// Names of files, as the kernel's dentries and mounts spell them (d_path in fs/d_path.c).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "introspection/walk.h"

namespace mhv::introspection {

// A struct path.
struct FilePlace {
  GuestVirt mount;  // its struct vfsmount
  GuestVirt dentry;
  friend bool operator==(FilePlace, FilePlace) = default;
};
static_assert(sizeof(FilePlace) == 16);

// Thread-safe: it only knows where the parts are.
class Paths {
 public:
  // Throws kUnsupported.
  explicit Paths(const Kernel& kernel);

  // From the root of all mounts of that namespace, or from `root`. nullopt: `root` was never met. Where a file was deleted,
  // " (deleted)" stands behind it. What is longer than 4 KiB loses its beginning to "...". Throws Torn.
  std::optional<std::string> of(Walk& walk, FilePlace place, std::optional<FilePlace> root = std::nullopt) const;
  std::string name(Walk& walk, GuestVirt dentry) const;
  // The superblock of a mount, and what kind of file system that is ("ext4").
  GuestVirt superblock(Walk& walk, GuestVirt mount) const { return walk.get<GuestVirt>(mount + superblock_); }
  std::string type(Walk& walk, GuestVirt superblock) const;
  GuestVirt root(Walk& walk, GuestVirt mount) const { return walk.get<GuestVirt>(mount + root_); }

 private:
  bool deleted(Walk& walk, GuestVirt dentry) const;

  std::uint32_t dentry_parent_, dentry_name_, dentry_length_, dentry_hash_;
  std::uint32_t mount_, mount_parent_, mount_point_;  // in a struct mount
  std::uint32_t root_, superblock_;                   // in a struct vfsmount
  std::uint32_t type_, type_name_;
};

}  // namespace mhv::introspection
