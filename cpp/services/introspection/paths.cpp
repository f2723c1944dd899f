#include "introspection/paths.h"

#include <algorithm>

namespace mhv::introspection {
namespace {

constexpr std::size_t kPathBytesMax = 4096, kNameBytesMax = 255, kTypeBytesMax = 64;
constexpr std::size_t kStepsMax = 2 * kPathBytesMax;  // of names and of mounts in one another

}  // namespace

Paths::Paths(const Kernel& kernel)
    : dentry_parent_(kernel.offset("dentry", "d_parent")),
      dentry_name_(kernel.offset("dentry", "d_name.name")),
      dentry_length_(kernel.offset("dentry", "d_name.len")),
      dentry_hash_(kernel.offset("dentry", "d_hash.pprev")),
      mount_(kernel.offset("mount", "mnt")),
      mount_parent_(kernel.offset("mount", "mnt_parent")),
      mount_point_(kernel.offset("mount", "mnt_mountpoint")),
      root_(kernel.offset("vfsmount", "mnt_root")),
      superblock_(kernel.offset("vfsmount", "mnt_sb")),
      type_(kernel.offset("super_block", "s_type")),
      type_name_(kernel.offset("file_system_type", "name")) {}

std::string Paths::name(Walk& walk, GuestVirt dentry) const {
  const auto length = std::min<std::size_t>(walk.get<std::uint32_t>(dentry + dentry_length_), kNameBytesMax);
  return walk.text(walk.get<GuestVirt>(dentry + dentry_name_), length);
}

std::string Paths::type(Walk& walk, GuestVirt superblock) const {
  return walk.text(walk.get<GuestVirt>(walk.get<GuestVirt>(superblock + type_) + type_name_), kTypeBytesMax);
}

// In no hash table any more.
bool Paths::deleted(Walk& walk, GuestVirt dentry) const { return walk.get<std::uint64_t>(dentry + dentry_hash_) == 0; }

std::optional<std::string> Paths::of(Walk& walk, FilePlace place, std::optional<FilePlace> root) const {
  const auto is_top = [&](GuestVirt dentry) { return walk.get<GuestVirt>(dentry + dentry_parent_) == dentry; };
  const bool was_deleted = !is_top(place.dentry) && deleted(walk, place.dentry);
  std::string path;
  for (std::size_t steps = 0;; ++steps) {
    if (steps > kStepsMax) throw Torn();
    if (root && place == *root) break;
    const GuestVirt mount{place.mount.value - mount_};
    if (place.dentry == this->root(walk, place.mount)) {
      const auto parent = walk.get<GuestVirt>(mount + mount_parent_);
      if (parent == mount) {
        if (root) return std::nullopt;
        break;
      }
      place = {parent + mount_, walk.get<GuestVirt>(mount + mount_point_)};
      continue;
    }
    const std::string part = name(walk, place.dentry);
    // Not in the tree of its mount: memory files and the like have their name, and nothing above.
    if (is_top(place.dentry)) {
      if (root) return std::nullopt;
      return "/" + part + " (deleted)" + path;
    }
    path.insert(0, "/" + part);
    if (path.size() > kPathBytesMax) return "..." + path.substr(path.size() - kPathBytesMax);
    place.dentry = walk.get<GuestVirt>(place.dentry + dentry_parent_);
  }
  if (path.empty()) path = "/";
  return was_deleted ? path + " (deleted)" : path;
}

}  // namespace mhv::introspection
