// For the tests of this folder: a kernel made by hand, with the tables, structures and lists that a Linux has.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "introspection/kernel.h"
#include "introspection/testing.h"

namespace mhv::introspection::testing {

// Where members are; "" is a pointer, anything else a structure that stands before.
struct TestMember {
  const char* name;
  std::uint32_t offset;
  const char* type = "";
  std::uint32_t times = 1;
};
struct TestStructure {
  const char* name;
  std::uint32_t bytes;
  std::vector<TestMember> members;
};

// As Linux was before 5.14, 6.4 and 6.8, and as it is now.
enum class Style { kOld, kNew };

inline std::vector<TestStructure> structures(Style style) {
  const bool old = style == Style::kOld;
  return {
      {"list_head", 16, {{"next", 0}, {"prev", 8}}},
      {"hlist_bl_node", 16, {{"next", 0}, {"pprev", 8}}},
      {"rb_node", 24, {{"rb_right", 8}, {"rb_left", 16}}},
      {"rb_root", 8, {{"rb_node", 0}}},
      {"path", 16, {{"mnt", 0}, {"dentry", 8}}},
      {"task_struct",
       4096,
       {{old ? "state" : "__state", 0x10},
        {"tasks", 0x100, "list_head"},
        {"pid", 0x110},
        {"tgid", 0x114},
        {"real_parent", 0x118},
        {"comm", 0x120},
        {"mm", 0x130},
        {"exit_state", 0x138},
        {"signal", 0x140},
        {"thread_node", 0x148, "list_head"},
        {"nsproxy", 0x158},
        {"fs", 0x160},
        {"files", 0x168}}},
      {"mm_struct", 256, {{"arg_start", 0x10}, {"arg_end", 0x18}, {"pgd", 0x20}}},
      {"signal_struct", 256, {{"thread_head", 0x10, "list_head"}}},
      {"module_layout", 16, {{"base", 0}, {"size", 8}}},
      {"module_memory", 24, {{"base", 0}, {"size", 8}}},
      old ? TestStructure{"module",
                          512,
                          {{"state", 0},
                           {"list", 8, "list_head"},
                           {"name", 0x18},
                           {"core_layout", 0x80, "module_layout"},
                           {"init_layout", 0x90, "module_layout"}}}
          : TestStructure{"module", 512, {{"state", 0}, {"list", 8, "list_head"}, {"name", 0x18}, {"mem", 0x80, "module_memory", 7}}},
      {"nsproxy", 64, {{"mnt_ns", 0x18}}},
      old ? TestStructure{"mnt_namespace", 64, {{"list", 0x20, "list_head"}}}
          : TestStructure{"mnt_namespace", 64, {{"mounts", 0x20, "rb_root"}}},
      {"vfsmount", 32, {{"mnt_root", 0}, {"mnt_sb", 8}, {"mnt_flags", 16}}},
      {"mount",
       256,
       {{"mnt_parent", 0x10},
        {"mnt_mountpoint", 0x18},
        {"mnt", 0x20, "vfsmount"},
        old ? TestMember{"mnt_list", 0x50, "list_head"} : TestMember{"mnt_node", 0x50, "rb_node"},
        {"mnt_devname", 0x70}}},
      {"super_block", 128, {{"s_type", 0x28}, {"s_flags", 0x50}}},
      {"file_system_type", 16, {{"name", 0}}},
      {"qstr", 16, {{"len", 4}, {"name", 8}}},
      {"dentry", 128, {{"d_hash", 8, "hlist_bl_node"}, {"d_parent", 0x18}, {"d_name", 0x20, "qstr"}}},
      {"fs_struct", 64, {{"root", 0x18, "path"}}},
      {"files_struct", 64, {{"fdt", 0x20}}},
      {"fdtable", 32, {{"max_fds", 0}, {"fd", 8}}},
      {"file", 256, {{"f_path", 0x10, "path"}, {"f_inode", 0x20}, {"f_mode", 0x2c}, {"private_data", 0x80}}},
      {"inode", 128, {{"i_mode", 0}, {"i_ino", 0x40}}},
      {"socket", 64, {{"type", 4}, {"file", 0x10}, {"sk", 0x18}}},
      {"sock_common",
       136,
       {{"skc_daddr", 0},
        {"skc_rcv_saddr", 4},
        {"skc_dport", 12},
        {"skc_num", 14},
        {"skc_family", 16},
        {"skc_state", 18},
        {"skc_v6_daddr", 56},
        {"skc_v6_rcv_saddr", 72}}},
      {"sock", 768, {{"__sk_common", 0, "sock_common"}, {"sk_protocol", 0x1f6}}},
      {"unix_sock", 1024, {{"addr", 0x300}, {"peer", 0x318}}},
      {"unix_address", 128, {{"len", 4}, {"name", 8}}},
      {"netlink_sock", 1024, {{"portid", 0x300}, {"dst_portid", 0x304}}},
      {"packet_sock", 1024, {{"ifindex", 0x300}, {"num", 0x304}}},
      {"new_utsname", 390, {{"nodename", 65}}},
      {"uts_namespace", 512, {{"name", 0, "new_utsname"}}},
      {"prb_desc_ring", 48, {{"count_bits", 0}, {"descs", 8}, {"infos", 16}, {"head_id", 24}, {"tail_id", 32}}},
      {"prb_data_ring", 32, {{"size_bits", 0}, {"data", 8}}},
      {"printk_ringbuffer", 128, {{"desc_ring", 0, "prb_desc_ring"}, {"text_data_ring", 48, "prb_data_ring"}}},
      {"prb_data_blk_lpos", 16, {{"begin", 0}, {"next", 8}}},
      {"prb_desc", 24, {{"state_var", 0}, {"text_blk_lpos", 8, "prb_data_blk_lpos"}}},
      {"printk_info", 88, {{"seq", 0}, {"ts_nsec", 8}, {"text_len", 16}, {"facility", 18}}},
  };
}

// Everything is within its image: at kVirt for the kernel, at kPhys in memory. Addresses are those of the kernel.
class TestKernel {
 public:
  static constexpr std::uint64_t kVirt = 0xffff'ffff'9a00'0000, kPhys = 16 << 20, kImageBytes = 16 << 20;
  static constexpr std::uint64_t kRoot = 0x10'0000, kTasks = 0x30'0000, kBtf = 0x40'0000, kSymbols = 0x50'0000, kFree = 0x80'0000;
  static constexpr const char* kBanner = "Linux version 6.1.0-test (gcc) #1 SMP\n";
  static constexpr std::uint32_t kTaskBytes = 4096;

  explicit TestKernel(Style style = Style::kNew, const std::string& banner = kBanner)
      : tables_(memory, kPhys + kRoot), style_(style), structures_(structures(style)) {
    for (std::uint64_t at = 0; at < kImageBytes; at += 2 << 20) tables_.map(kVirt + at, kPhys + at, 4, 2);
    const auto btf = types();
    memory.put_bytes(kPhys + kBtf, btf);
    symbols_ = {{"Dinit_top_pgt", kVirt + kRoot},           {"Dinit_task", kVirt + kTasks}, {"R__start_BTF", kVirt + kBtf},
                {"R__stop_BTF", kVirt + kBtf + btf.size()}, {"T_text", kVirt + 8},          {"T_etext", kVirt + 0x8'0000}};
    symbols_["Rlinux_banner"] = add_text(banner);
    symbols_["dmodules"] = add_list();
    symbols_["Dinit_uts_ns"] = add("uts_namespace");
    memory.put_bytes(phys(symbols_["Dinit_uts_ns"] + 65), std::as_bytes(std::span("made", 5)));
    symbols_["Dsaved_command_line"] = add_bytes(8);
    put(symbols_["Dsaved_command_line"], add_text("console=ttyS0 quiet"));
    symbols_["dprb"] = add_bytes(8);
    symbols_["Rsys_call_table"] = add_bytes(64);
    symbols_["Rbehind"] = symbols_["Rsys_call_table"] + 32;
    add_task("swapper/0", 0, 0);
  }

  // Once all that is wanted is there.
  void write_symbols() {
    std::vector<TestSymbol> out;
    for (std::uint64_t at = 16; at < kImageBytes; at += 1 << 8) out.push_back({kVirt + at, "tfill_" + std::to_string(at)});
    for (const auto& [text, at] : symbols_) out.push_back({at, text});
    std::ranges::stable_sort(out, {}, &TestSymbol::address);
    memory.put_bytes(kPhys + kSymbols, make_kallsyms(out, {true, true, true}, kVirt));
  }
  std::uint64_t symbol(const std::string& text) const { return symbols_.at(text); }
  Paging paging() const { return {tables_.root(), false}; }
  Kernel kernel() {
    write_symbols();
    return Kernel(memory, paging());
  }

  static std::uint64_t phys(std::uint64_t virt) { return virt - kVirt + kPhys; }
  template <typename T>
  void put(std::uint64_t at, const T& value) {
    memory.put(phys(at), value);
  }
  template <typename T>
  T get(std::uint64_t at) const {
    return *read_as<T>(memory, {phys(at)});
  }
  std::uint32_t offset(const std::string& structure, const std::string& member) const {
    const auto found = std::ranges::find(structures_, structure, &TestStructure::name);
    const std::size_t dot = member.find('.');
    const auto one = std::ranges::find(found->members, member.substr(0, dot), &TestMember::name);
    return one->offset + (dot == std::string::npos ? 0 : offset(one->type, member.substr(dot + 1)));
  }
  template <typename T>
  void set(std::uint64_t at, const std::string& structure, const std::string& member, const T& value) {
    put(at + offset(structure, member), value);
  }

  std::uint64_t add_bytes(std::size_t bytes) {
    const std::uint64_t at = kVirt + free_;
    free_ += (bytes + 15) / 16 * 16;
    return at;
  }
  std::uint64_t add(const std::string& structure) {
    return add_bytes(std::ranges::find(structures_, structure, &TestStructure::name)->bytes);
  }
  std::uint64_t add_text(const std::string& text) {
    const std::uint64_t at = add_bytes(text.size() + 1);
    memory.put_bytes(phys(at), std::as_bytes(std::span(text.c_str(), text.size() + 1)));
    return at;
  }
  // Lists. One with nothing in it leads to itself.
  std::uint64_t add_list() {
    const std::uint64_t at = add_bytes(16);
    make_list(at);
    return at;
  }
  void make_list(std::uint64_t head) {
    put(head, head);
    put(head + 8, head);
  }
  void append(std::uint64_t head, std::uint64_t entry) {
    const auto last = get<std::uint64_t>(head + 8);
    put(entry, head);
    put(entry + 8, last);
    put(last, entry);
    put(head + 8, entry);
  }

  // Behind the one that was added last, its number as its parent is.
  std::uint64_t add_task(const std::string& name, std::int32_t pid, std::size_t parent, std::uint64_t mm = 0) {
    const std::uint64_t at = task(count_++), links = at + offset("task_struct", "tasks");
    fill_task(at, name, pid, pid);
    set(at, "task_struct", "real_parent", task(parent));
    set(at, "task_struct", "mm", mm);
    const std::uint64_t head = task(0) + offset("task_struct", "tasks");
    if (count_ == 1) {
      make_list(head);
    } else {
      append(head, links);
    }
    const std::uint64_t signal = add("signal_struct"), threads = signal + offset("signal_struct", "thread_head");
    set(at, "task_struct", "signal", signal);
    make_list(threads);
    append(threads, at + offset("task_struct", "thread_node"));
    return at;
  }
  std::uint64_t add_thread(std::uint64_t leader, const std::string& name, std::int32_t tid) {
    const std::uint64_t at = add("task_struct");
    fill_task(at, name, get<std::int32_t>(leader + offset("task_struct", "tgid")), tid);
    const auto signal = get<std::uint64_t>(leader + offset("task_struct", "signal"));
    set(at, "task_struct", "signal", signal);
    append(signal + offset("signal_struct", "thread_head"), at + offset("task_struct", "thread_node"));
    return at;
  }
  // Memory of a process that begins with these arguments; returns its mm.
  std::uint64_t add_memory(std::string_view arguments) {
    constexpr std::uint64_t kUser = 0x7ffd'0000'0000;
    const std::uint64_t page = kPhys + 0x38'0000, root = 0x3c'0000;
    Tables tables(memory, kPhys + root);
    tables.map(kUser, page, 4, 1);
    memory.put_bytes(page + 16, std::as_bytes(std::span(arguments)));
    const std::uint64_t mm = add("mm_struct");
    set(mm, "mm_struct", "arg_start", kUser + 16);
    set(mm, "mm_struct", "arg_end", kUser + 16 + arguments.size());
    set(mm, "mm_struct", "pgd", kVirt + root);
    return mm;
  }
  static std::uint64_t task(std::size_t number) { return kVirt + kTasks + number * kTaskBytes; }
  Style style() const { return style_; }

  TestMemory memory{40 << 20};

 private:
  void fill_task(std::uint64_t at, const std::string& name, std::int32_t tgid, std::int32_t pid) {
    set(at, "task_struct", "tgid", tgid);
    set(at, "task_struct", "pid", pid);
    memory.put_bytes(phys(at + offset("task_struct", "comm")), std::as_bytes(std::span(name.c_str(), name.size() + 1)));
  }

  std::vector<std::byte> types() const {
    TestBtf btf;
    btf.add(kInt, "int", 4);
    btf.word(0x0100'0020);
    const auto pointer = btf.add(kPtr, "", 0);
    std::map<std::string, std::uint32_t> numbers{{"", pointer}};
    for (const TestStructure& one : structures_) {
      std::vector<std::uint32_t> members;
      for (const TestMember& member : one.members) {
        members.push_back(numbers.at(member.type));
        if (member.times == 1) continue;
        const std::uint32_t element = members.back();
        members.back() = btf.add(kArray, "", 0);
        for (const std::uint32_t word : {element, std::uint32_t{1}, member.times}) btf.word(word);
      }
      numbers[one.name] = btf.add(kStruct, one.name, one.bytes, static_cast<std::uint32_t>(one.members.size()));
      for (std::size_t i = 0; i < members.size(); ++i) btf.member(one.members[i].name, members[i], one.members[i].offset * 8);
    }
    return btf.bytes();
  }

  Tables tables_;
  Style style_;
  std::vector<TestStructure> structures_;
  std::map<std::string, std::uint64_t> symbols_;
  std::uint64_t free_ = kFree;
  std::size_t count_ = 0;
};

}  // namespace mhv::introspection::testing
