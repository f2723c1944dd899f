// The modules of a guest's kernel, by each of the lists that it keeps of them.
#pragma once

#include <string>
#include <vector>

#include "integrity/reader.h"

namespace mhv::integrity {

inline constexpr std::size_t kModulesMax = 4096;

struct Module {
  GuestVirt at;  // its struct module
  std::string name;
  std::uint64_t serial = 0;  // of its folder in /sys: another each time it is loaded; 0: not known
  bool settled = false;      // its start is over, and its end has not begun: nobody writes to what is fixed
  Range text;
  std::vector<Range> fixed;   // text and read-only data
  std::vector<Range> memory;  // all of it
  GuestVirt jumps, static_calls;
  std::uint32_t jump_count = 0, static_call_count = 0;
};

// Thread-safe. The Kernel outlives it.
class ModuleLists {
 public:
  // Throws kUnsupported.
  explicit ModuleLists(const Kernel& kernel);

  // Of /proc/modules; nullopt: it does not hold together.
  std::optional<std::vector<Module>> listed(Reader& reader) const;
  // Addresses of struct module, of /sys/module and of the tree by which the kernel finds code. nullopt as above.
  std::optional<std::vector<GuestVirt>> in_sysfs(Reader& reader) const;
  std::optional<std::vector<GuestVirt>> in_tree(Reader& reader) const;
  // The kernel is just changing the first and the last.
  bool is_changing(Reader& reader) const;
  std::string name_of(Reader& reader, GuestVirt module) const { return reader.name(module + name_); }

 private:
  Module describe(Reader& reader, GuestVirt at) const;
  void add_layout(const Structure& module, Module& out) const;
  void add_memories(const Structure& module, Module& out) const;

  GuestVirt list_, kset_, tree_, mutex_;
  std::uint32_t state_, links_, name_, jumps_, jump_count_, static_calls_, static_call_count_;
  std::uint32_t bytes_;
  // Up to Linux 6.3 a module has two parts, ordered within; since then each has memory of its own.
  std::optional<std::uint32_t> core_, init_, memories_;
  std::uint32_t base_ = 0, size_ = 0, text_size_ = 0, ro_size_ = 0, ro_after_init_size_ = 0, memory_bytes_ = 0;
  std::uint32_t kset_list_, kobject_entry_, kobject_module_, owner_;
  std::optional<std::uint32_t> folder_, folder_id_;  // from a module to its kernfs_node, and in that
  std::uint32_t trees_, sequence_, node_, node_module_;
};

}  // namespace mhv::integrity
