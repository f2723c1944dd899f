#include "integrity/modules.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "integrity/trees.h"

namespace mhv::integrity {
namespace {

constexpr std::size_t kNameBytes = 56;  // MODULE_NAME_LEN
constexpr std::uint32_t kLive = 0;
constexpr std::uint64_t kModuleBytesMax = 256u << 20;
constexpr std::uint64_t kCountMax = 1u << 16;
// enum mod_mem_type
constexpr std::uint32_t kMemText = 0, kMemRodata = 2, kMemRoAfterInit = 3, kMemInitText = 4, kMemories = 7;

std::uint32_t optional_offset(const Kernel& kernel, std::string_view structure, std::string_view member) {
  const auto field = kernel.types().field(structure, member);
  return field ? field->offset : UINT32_MAX;
}

}  // namespace

ModuleLists::ModuleLists(const Kernel& kernel)
    : list_(kernel.symbol("modules")),
      kset_(kernel.symbol("module_kset")),
      tree_(kernel.symbol("mod_tree")),
      mutex_(kernel.symbol("module_mutex")),
      state_(kernel.offset("module", "state")),
      links_(kernel.offset("module", "list")),
      name_(kernel.offset("module", "name")),
      jumps_(optional_offset(kernel, "module", "jump_entries")),
      jump_count_(optional_offset(kernel, "module", "num_jump_entries")),
      static_calls_(optional_offset(kernel, "module", "static_call_sites")),
      static_call_count_(optional_offset(kernel, "module", "num_static_call_sites")),
      bytes_(4096),
      kset_list_(kernel.offset("kset", "list")),
      kobject_entry_(kernel.offset("kobject", "entry")),
      kobject_module_(kernel.offset("module_kobject", "mod")),
      owner_(kernel.offset("mutex", "owner")),
      trees_(kernel.offset("latch_tree_root", "tree")),
      sequence_(kernel.offset("latch_tree_root", "seq")),
      node_(kernel.offset("mod_tree_node", "node")),
      node_module_(kernel.offset("mod_tree_node", "mod")) {
  if (const auto type = kernel.types().find("module")) {
    bytes_ = static_cast<std::uint32_t>(std::min<std::uint64_t>(kernel.types().size_of(*type), bytes_));
  }
  const auto object = kernel.types().field("module", "mkobj.kobj"), folder = kernel.types().field("kobject", "sd"),
             id = kernel.types().field("kernfs_node", "id");
  if (object && folder && id) {
    folder_ = object->offset + folder->offset;
    folder_id_ = id->offset;
  }
  if (const auto memories = kernel.types().field("module", "mem")) {
    memories_ = memories->offset;
    base_ = kernel.offset("module_memory", "base");
    size_ = kernel.offset("module_memory", "size");
    memory_bytes_ = static_cast<std::uint32_t>(kernel.types().size_of(*kernel.types().find("module_memory")));
  } else {
    core_ = kernel.offset("module", "core_layout");
    init_ = kernel.offset("module", "init_layout");
    base_ = kernel.offset("module_layout", "base");
    size_ = kernel.offset("module_layout", "size");
    text_size_ = kernel.offset("module_layout", "text_size");
    ro_size_ = kernel.offset("module_layout", "ro_size");
    ro_after_init_size_ = kernel.offset("module_layout", "ro_after_init_size");
  }
}

void ModuleLists::add_layout(const Structure& module, Module& out) const {
  const GuestVirt base = module.pointer(*core_ + base_);
  const std::uint64_t size = module.get<std::uint32_t>(*core_ + size_);
  const std::uint64_t text = module.get<std::uint32_t>(*core_ + text_size_), ro = module.get<std::uint32_t>(*core_ + ro_size_);
  const std::uint64_t late = module.get<std::uint32_t>(*core_ + ro_after_init_size_);
  if (size > kModuleBytesMax || text > ro || ro > late || late > size) return;
  out.text = {base, text};
  out.memory = {{base, size}};
  out.fixed = {{base, text}, {base + text, late - text}};
  out.settled = module.pointer(*init_ + base_).value == 0;
}

void ModuleLists::add_memories(const Structure& module, Module& out) const {
  for (std::uint32_t i = 0; i < kMemories; ++i) {
    const std::size_t at = *memories_ + std::size_t{i} * memory_bytes_;
    const Range range{module.pointer(at + base_), module.get<std::uint32_t>(at + size_)};
    if (range.start.value == 0 || range.bytes == 0) continue;
    if (range.bytes > kModuleBytesMax) return;
    out.memory.push_back(range);
    if (i == kMemText) out.text = range;
    if (i == kMemText || i == kMemRodata || i == kMemRoAfterInit) out.fixed.push_back(range);
  }
  out.settled = module.pointer(*memories_ + std::size_t{kMemInitText} * memory_bytes_ + base_).value == 0;
}

Module ModuleLists::describe(Reader& reader, GuestVirt at) const {
  Module out;
  out.at = at;
  Structure module;
  if (!module.read(reader, at, bytes_)) return out;
  for (const char c : module.get<std::array<char, kNameBytes>>(name_)) {
    if (c == '\0') break;
    out.name += c >= ' ' && c <= '~' ? c : '?';
  }
  if (folder_) out.serial = reader.word(module.pointer(*folder_) + *folder_id_);
  if (memories_) {
    add_memories(module, out);
  } else {
    add_layout(module, out);
  }
  out.settled = out.settled && module.get<std::uint32_t>(state_) == kLive;
  const auto count = [&](std::uint32_t offset) {
    const auto value = module.get<std::uint32_t>(offset);
    return value <= kCountMax ? value : 0;
  };
  out.jumps = module.pointer(jumps_);
  out.jump_count = count(jump_count_);
  out.static_calls = module.pointer(static_calls_);
  out.static_call_count = count(static_call_count_);
  return out;
}

std::optional<std::vector<Module>> ModuleLists::listed(Reader& reader) const {
  const auto links = walk_list(reader, list_, kModulesMax);
  if (!links) return std::nullopt;
  std::vector<Module> out;
  for (const GuestVirt link : *links) out.push_back(describe(reader, {link.value - links_}));
  return out;
}

std::optional<std::vector<GuestVirt>> ModuleLists::in_sysfs(Reader& reader) const {
  const GuestVirt kset{reader.word(kset_)};
  const auto links = walk_list(reader, kset + kset_list_, kModulesMax);
  if (!links) return std::nullopt;
  std::vector<GuestVirt> out;
  for (const GuestVirt link : *links) {
    const GuestVirt module{reader.word({link.value - kobject_entry_ + kobject_module_})};
    if (module.value != 0) out.push_back(module);  // what is built in has a folder there too
  }
  return out;
}

std::optional<std::vector<GuestVirt>> ModuleLists::in_tree(Reader& reader) const {
  const unsigned side = reader.get<std::uint32_t>(tree_ + sequence_).value_or(0) & 1;
  constexpr std::uint64_t kRootBytes = 8, kNodeBytes = 24;
  const auto nodes = walk_tree(reader, {reader.word(tree_ + trees_ + side * kRootBytes)}, kModulesMax * 4);
  if (!nodes) return std::nullopt;
  std::vector<GuestVirt> out;
  for (const GuestVirt node : *nodes) out.push_back({reader.word({node.value - side * kNodeBytes - node_ + node_module_})});
  return out;
}

bool ModuleLists::is_changing(Reader& reader) const {
  constexpr std::uint64_t kFlags = 7;
  return (reader.word(mutex_ + owner_) & ~kFlags) != 0;
}

}  // namespace mhv::integrity
