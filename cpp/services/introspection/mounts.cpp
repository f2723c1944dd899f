#include "introspection/mounts.h"

namespace mhv::introspection {
namespace {

constexpr std::uint32_t kReadOnly = 0x40, kCursor = 0x1000'0000;  // MNT_READONLY; MNT_CURSOR: somebody reads the list there
constexpr std::uint64_t kSuperblockReadOnly = 1;                  // SB_RDONLY
constexpr std::size_t kDeviceBytesMax = 4096;
constexpr std::size_t kTreeDepthMax = 128;  // a tree that is balanced has not even a third of it

}  // namespace

Mounts::Mounts(const Kernel& kernel)
    : kernel_(kernel),
      processes_(kernel),
      paths_(kernel),
      is_tree_(kernel.types().field("mnt_namespace", "mounts.rb_node").has_value()),
      proxy_(kernel.offset("task_struct", "nsproxy")),
      fs_(kernel.offset("task_struct", "fs")),
      name_space_(kernel.offset("nsproxy", "mnt_ns")),
      root_(kernel.offset("fs_struct", "root")),
      head_(is_tree_ ? kernel.offset("mnt_namespace", "mounts.rb_node") : kernel.offset("mnt_namespace", "list")),
      links_(is_tree_ ? kernel.offset("mount", "mnt_node") : kernel.offset("mount", "mnt_list")),
      mount_(kernel.offset("mount", "mnt")),
      device_(kernel.offset("mount", "mnt_devname")),
      flags_(kernel.offset("vfsmount", "mnt_flags")),
      superblock_flags_(kernel.offset("super_block", "s_flags")),
      left_(kernel.offset("rb_node", "rb_left")),
      right_(kernel.offset("rb_node", "rb_right")) {}

std::vector<GuestVirt> Mounts::all(Walk& walk, GuestVirt name_space) const {
  std::vector<GuestVirt> out;
  const auto add = [&](GuestVirt links) { out.push_back({links.value - links_}); };
  if (!is_tree_) {
    walk.list(name_space + head_, add);
    return out;
  }
  std::vector<GuestVirt> above;
  for (auto at = walk.get<GuestVirt>(name_space + head_); at.value != 0 || !above.empty();) {
    if (at.value != 0) {
      if (above.size() == kTreeDepthMax) throw Torn();
      above.push_back(at);
      at = walk.get<GuestVirt>(at + left_);
      continue;
    }
    at = above.back();
    above.pop_back();
    walk.row();
    add(at);
    at = walk.get<GuestVirt>(at + right_);
  }
  return out;
}

std::vector<Mount> Mounts::of(Walk& walk, GuestVirt task) const {
  const auto proxy = walk.get<GuestVirt>(task + proxy_), fs = walk.get<GuestVirt>(task + fs_);
  if (proxy.value == 0 || fs.value == 0) return {};  // it is ending
  const auto root = walk.get<FilePlace>(fs + root_);
  std::vector<Mount> out;
  for (const GuestVirt mount : all(walk, walk.get<GuestVirt>(proxy + name_space_))) {
    const GuestVirt seen = mount + mount_;
    const auto flags = walk.get<std::uint32_t>(seen + flags_);
    if ((flags & kCursor) != 0) continue;
    auto point = paths_.of(walk, {seen, paths_.root(walk, seen)}, root);
    if (!point) continue;
    const GuestVirt superblock = paths_.superblock(walk, seen), device = walk.get<GuestVirt>(mount + device_);
    const bool read_only = (flags & kReadOnly) != 0 || (walk.get<std::uint64_t>(superblock + superblock_flags_) & kSuperblockReadOnly) != 0;
    out.push_back(
        {device.value != 0 ? walk.text(device, kDeviceBytesMax) : "none", std::move(*point), paths_.type(walk, superblock), read_only});
  }
  return out;
}

std::vector<Mount> Mounts::list(std::int32_t pid) const {
  const GuestVirt task = processes_.find(pid).task;
  Walk walk(kernel_);
  return walk.again("list of mounts", [&] { return of(walk, task); });
}

}  // namespace mhv::introspection
