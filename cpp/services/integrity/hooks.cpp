#include "integrity/hooks.h"

#include <algorithm>

#include "base/error.h"

namespace mhv::integrity {
namespace {

constexpr std::size_t kHooksMax = 1024;
constexpr std::size_t kFtraceOpsMax = 4096;
constexpr std::size_t kEntriesMax = 1u << 16;
constexpr std::size_t kToldMax = 64;  // of one kind: a table that was forged is not told word by word

}  // namespace

NetfilterHooks::NetfilterHooks(const Kernel& kernel) {
  const GuestVirt net = kernel.symbol("init_net");
  const std::uint32_t nf = kernel.offset("net", "nf");
  struct Name {
    const char* name;
    const char* member;
  };
  for (const Name& one :
       {Name{"ipv4", "hooks_ipv4"}, Name{"ipv6", "hooks_ipv6"}, Name{"arp", "hooks_arp"}, Name{"bridge", "hooks_bridge"}}) {
    const auto field = kernel.types().field("netns_nf", one.member);
    if (!field) continue;
    families_.push_back({one.name, net + nf + field->offset, static_cast<std::uint32_t>(kernel.types().size_of(field->type) / 8)});
  }
}

// struct nf_hook_entries: their number (2 bytes), and from 8 on each a function and what it is called with.
void NetfilterHooks::check(Reader& reader, CodeMap& map, std::vector<Finding>& out) const {
  constexpr std::uint32_t kFirst = 8, kEach = 16, kPlacesMax = 16;
  std::size_t told = 0;
  for (const Family& family : families_) {
    for (std::uint32_t place = 0; place < std::min(family.count, kPlacesMax); ++place) {
      const GuestVirt hooks{reader.word(family.at + place * sizeof(std::uint64_t))};
      if (hooks.value == 0) continue;
      const std::string subject = std::string(family.name) + " hook " + std::to_string(place);
      const auto count = reader.get<std::uint16_t>(hooks);
      if (!count || *count > kHooksMax) {
        out.push_back({"netfilter", subject, "its list is at " + hex(hooks.value) + ", where none is", hooks});
        continue;
      }
      for (std::uint32_t i = 0; i < *count; ++i) {
        const GuestVirt at = hooks + kFirst + i * kEach, function{reader.word(at)};
        if (map.is_code(function) || map.is_made(function) || told++ >= kToldMax) continue;
        out.push_back({"netfilter", subject, "packets go to " + map.describe(function), at});
      }
    }
  }
}

FtraceOperations::FtraceOperations(const Kernel& kernel)
    : list_(kernel.symbol("ftrace_ops_list")),
      end_(kernel.symbol("ftrace_list_end")),
      function_(kernel.offset("ftrace_ops", "func")),
      next_(kernel.offset("ftrace_ops", "next")),
      flags_(kernel.offset("ftrace_ops", "flags")) {}

// Operations that may change where a function returns to (FTRACE_OPS_FL_IPMODIFY) are those of live patches and probes, whose functions are
// the kernel's own; from a module they are how rootkits hook.
void FtraceOperations::check(Reader& reader, CodeMap& map, std::vector<Finding>& out) const {
  constexpr std::uint64_t kMayRedirect = 1u << 13;
  const auto text = reader.kernel().symbols().find("_stext"), text_end = reader.kernel().symbols().find("_etext");
  GuestVirt ops{reader.word(list_)};
  for (std::size_t i = 0; i < kFtraceOpsMax && ops != end_; ++i) {
    const auto function = reader.pointer(ops + function_), next = reader.pointer(ops + next_);
    if (!function || !next) {
      out.push_back({"ftrace", hex(ops.value), "ftrace's list of operations leads to where nothing is", ops});
      return;
    }
    const std::string subject = map.is_own(ops) ? describe_symbol(reader.kernel(), ops) : hex(ops.value);
    if (!map.is_code(*function) && !map.is_made(*function)) {
      out.push_back({"ftrace", subject, "traced functions call " + map.describe(*function), ops + function_});
    } else if ((reader.word(ops + flags_) & kMayRedirect) != 0 && text && text_end && (*function < *text || *function >= *text_end)) {
      out.push_back({"ftrace", subject, "functions are redirected by " + map.describe(*function), ops + function_});
    }
    ops = *next;
  }
  if (ops != end_) out.push_back({"ftrace", "ftrace_ops_list", "ftrace's list of operations has no end", list_});
}

ProcEntries::ProcEntries(const Kernel& kernel)
    : root_(kernel.symbol("proc_root")),
      net_root_(kernel.symbol("init_net") + kernel.offset("net", "proc_net")),
      lock_(kernel.symbol("proc_subdir_lock")),
      children_(kernel.offset("proc_dir_entry", "subdir")),
      node_(kernel.offset("proc_dir_entry", "subdir_node")),
      name_(kernel.offset("proc_dir_entry", "name")),
      operations_(kernel.offset("proc_dir_entry", "proc_ops")),
      inode_operations_(kernel.offset("proc_dir_entry", "proc_iops")),
      show_(kernel.offset("proc_dir_entry", "seq_ops")),
      bytes_(std::max({children_, node_, name_, operations_, inode_operations_, show_}) + 24) {}

void ProcEntries::check_entry(Reader& reader, CodeMap& map, GuestVirt at, const Structure& entry, std::vector<Finding>& out) const {
  struct Member {
    const char* name;
    std::uint32_t offset;
  };
  for (const Member& member : {Member{"proc_ops", operations_}, Member{"proc_iops", inode_operations_}, Member{"seq_ops", show_}}) {
    const GuestVirt to = entry.pointer(member.offset);
    if (to.value == 0 || map.is_own(to)) continue;
    out.push_back({"function_pointer", "/proc " + reader.name(entry.pointer(name_)) + ": " + member.name,
                   "its operations are at " + map.describe(to), at + member.offset});
  }
}

// Each is one read: it is a node among those of its folder (an rb_node: its parent, right, left), and may be a folder itself.
void ProcEntries::check(Reader& reader, CodeMap& map, std::vector<Finding>& out) const {
  if (reader.get<std::uint8_t>(lock_) == std::uint8_t{0xff}) return;  // somebody writes, as in tasks.cpp
  std::vector<GuestVirt> entries{root_, {reader.word(net_root_)}};
  const std::size_t before = out.size();
  for (std::size_t i = 0; i < entries.size() && out.size() - before < kToldMax; ++i) {
    Structure entry;
    if (!entry.read(reader, entries[i], bytes_)) continue;
    check_entry(reader, map, entries[i], entry, out);
    const GuestVirt child = entry.pointer(children_), right = entry.pointer(node_ + 8), left = entry.pointer(node_ + 16);
    for (const GuestVirt node : {child, right, left}) {
      if (node.value != 0 && entries.size() < kEntriesMax) entries.push_back({node.value - node_});
    }
  }
}

}  // namespace mhv::integrity
