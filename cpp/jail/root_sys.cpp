#include "jail/root_sys.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <filesystem>

#include "base/error.h"

namespace mhv::jail {
namespace {

constexpr unsigned kRecursive = 0x8000;  // AT_RECURSIVE, of a header that <fcntl.h> does not go together with

// Any folder that every host has: the new root is mounted over it, and then it is gone with the old root.
constexpr const char* kMountPoint = "/usr";

void restrict_mount(int fd, const char* path, unsigned flags, std::uint64_t attributes, const std::string& what) {
  mount_attr attr{};
  attr.attr_set = attributes;
  if (::mount_setattr(fd, path, flags, &attr, sizeof attr) != 0) throw_errno("cannot make " + what + " read-only");
}

}  // namespace

NewRoot::NewRoot(const std::string& package, const std::string& python_path, const std::string& data) {
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) throw_errno("cannot part from the host's mounts");
  bind("/usr", "usr");
  for (const std::string name : {"bin", "lib", "lib64"}) {
    std::array<char, PATH_MAX> to{};
    const ssize_t length = ::readlink(("/" + name).c_str(), to.data(), to.size());
    if (length > 0) {
      links_.push_back({name, std::string(to.data(), static_cast<std::size_t>(length))});
    } else if (errno == EINVAL) {
      bind("/" + name, name);
    }
  }
  if (!package.empty()) bind(package, "layer");
  if (!python_path.empty()) bind(python_path, "python");
  if (!data.empty()) bind(data, "data");
}

void NewRoot::show_descriptors() { bind("/proc/self/fd", "fd"); }

void NewRoot::bind(const std::string& source, const std::string& target) {
  Fd tree = Fd::own(::open_tree(AT_FDCWD, source.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | kRecursive));
  if (!tree) throw_errno("cannot show " + source + " to the layer");
  restrict_mount(tree.get(), "", AT_EMPTY_PATH | kRecursive, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, source);
  trees_.push_back({target, std::move(tree)});
}

void NewRoot::enter() {
  if (::mount("none", kMountPoint, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m") != 0) throw_errno("cannot make the layer's root");
  if (::chdir(kMountPoint) != 0) throw_errno("cannot enter the layer's root");
  for (const Tree& tree : trees_) {
    std::filesystem::create_directories(tree.target);
    if (::move_mount(tree.mount.get(), "", AT_FDCWD, tree.target.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
      throw_errno("cannot put /" + tree.target + " into the layer's root");
    }
  }
  trees_.clear();
  for (const Link& link : links_) std::filesystem::create_symlink(link.to, link.name);
  // The old root comes to lie over the new one, and is taken off it.
  if (::syscall(SYS_pivot_root, ".", ".") != 0) throw_errno("cannot change to the layer's root");
  if (::umount2(".", MNT_DETACH) != 0) throw_errno("cannot leave the host's root");
  if (::chdir("/") != 0) throw_errno("cannot enter the layer's root");
  restrict_mount(AT_FDCWD, "/", 0, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, "the layer's root");
}

}  // namespace mhv::jail
