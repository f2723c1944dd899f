// What a process of the guest sees mounted.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "introspection/paths.h"
#include "introspection/processes.h"

namespace mhv::introspection {

struct Mount {
  std::string device;  // "/dev/vda1", or whatever it was mounted as
  std::string point;   // where, from the process's root
  std::string type;    // "ext4"
  bool read_only = false;
};

// Thread-safe. The Kernel outlives it.
class Mounts {
 public:
  // Throws kUnsupported.
  explicit Mounts(const Kernel& kernel);

  // As /proc/PID/mounts has them: without those that its root is not above. Throws kBusy, kNotFound.
  std::vector<Mount> list(std::int32_t pid) const;

 private:
  std::vector<GuestVirt> all(Walk& walk, GuestVirt name_space) const;
  std::vector<Mount> of(Walk& walk, GuestVirt task) const;

  const Kernel& kernel_;
  Processes processes_;
  Paths paths_;
  bool is_tree_;                            // since 6.8 they are in a red-black tree, and were in a list before
  std::uint32_t proxy_, fs_;                // in a task_struct
  std::uint32_t name_space_, root_, head_;  // in a nsproxy, a fs_struct, a mnt_namespace
  std::uint32_t links_, mount_, device_;    // in a struct mount
  std::uint32_t flags_, superblock_flags_;
  std::uint32_t left_, right_;  // in a rb_node
};

}  // namespace mhv::introspection
