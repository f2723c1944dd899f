// For the tests of this folder: a kernel made by hand, with all that integrity looks at, as Linux 6.1 lays it out. Two modules, three
// processes, two processors.
#pragma once

#include <string>
#include <vector>

#include "integrity/checker.h"
#include "introspection/testing.h"

namespace mhv::integrity::testing {

using introspection::testing::kArray;
using introspection::testing::kInt;
using introspection::testing::kPtr;
using introspection::testing::kStruct;
using introspection::testing::Tables;
using introspection::testing::TestBtf;
using introspection::testing::TestMemory;
using introspection::testing::TestSymbol;

inline constexpr std::uint64_t kImage = 0xffff'ffff'8100'0000, kImagePhys = 16 << 20, kImageBytes = 8 << 20;
inline constexpr std::uint64_t kModules = 0xffff'ffff'c000'0000, kModulesPhys = 24 << 20;  // 2 MiB
inline constexpr std::uint64_t kHeap = 0xffff'8880'0000'0000, kHeapPhys = 26 << 20;        // 2 MiB
inline constexpr std::uint64_t kIdt = 0xffff'fe00'0000'0000, kIdtPhys = 28 << 20;
inline constexpr std::uint64_t kPages = 0xffff'ea00'0000'0000, kPagesPhys = (28 << 20) + 0x4'0000, kPageStruct = 64;  // 512 KiB
inline constexpr std::uint64_t kDirect = kHeap - kHeapPhys;  // where the kernel sees all RAM
inline constexpr std::uint64_t kRandom = 0x1234'5678'9abc'def1;

// Where things are in the image.
namespace at {
inline constexpr std::uint64_t text = 0, text_end = 0x1'0000;               // a function every 64 bytes
inline constexpr std::uint64_t rodata = 0x20'0000, rodata_end = 0x20'8000;  // 8 pages
inline constexpr std::uint64_t syscalls = rodata, operations = rodata + 0x1000, banner = rodata + 0x1100, jumps = rodata + 0x2000,
                               calls = rodata + 0x3000, offsets = rodata + 0x3800;
inline constexpr std::uint64_t data = 0x30'0000, data_end = 0x31'0000;
inline constexpr std::uint64_t modules = data, kset = data + 0x20, tree = data + 0x80, mutex = data + 0xc0, lock = data + 0xe0,
                               state = data + 0xf0, text_mutex = data + 0x100, call_mutex = data + 0x120, processors = data + 0x140,
                               prot = data + 0x200, key = data + 0x300, ftrace_list = data + 0x400, ftrace_end = data + 0x440,
                               ftrace_pages = data + 0x500, ftrace_page = data + 0x540, ftrace_records = data + 0x600, net = data + 0x1000,
                               proc_root = data + 0x2000, proc_lock = data + 0x2100, pid_ns = data + 0x2200, kprobes = data + 0x3000,
                               programs = data + 0x3400, ksyms = data + 0x3500, unoptimising = data + 0x3600, queues = data + 0x4000,
                               first_task = data + 0x6000, pages = data + 0x8000, direct = data + 0x8008, cache = data + 0x8010,
                               counting = data + 0x8018;
inline constexpr std::uint64_t image_end = 0x78'0000, btf = 0x40'0000, symbols = 0x50'0000, tables = 0x60'0000;
}  // namespace at

// Functions, by their number in the text.
inline constexpr std::uint64_t kFunctionBytes = 64;
inline std::uint64_t function(std::uint64_t number) { return kImage + at::text + number * kFunctionBytes; }
inline constexpr std::uint64_t kRead = 1, kWrite = 2, kDispatch = 3, kEntry = 4, kShow = 5, kTraced = 6, kLabelled = 7, kCaller = 8,
                               kCalled = 9, kCalling = 10, kOtherCalled = 11, kRecv = 12, kFault = 13, kProbed = 14, kNi = 15;

// Offsets of members.
namespace in {
inline constexpr std::uint32_t state = 0, list = 8, name = 24, kobject = 0x60, core = 0x100, init = 0x180;                 // module
inline constexpr std::uint32_t base = 0, size = 8, text_size = 12, ro_size = 16, late_size = 20, node = 24, node_mod = 0;  // module_layout
inline constexpr std::uint32_t tasks = 0x10, pid = 0x20, tgid = 0x24, comm = 0x28, exit_state = 0x38, signal = 0x40, thread = 0x48,
                               entity = 0x60, links = 0x90, running = 0, handlers = 0x58;                  // task_struct
inline constexpr std::uint32_t current = 0x10, idle = 0x18, fair = 0x20, processor = 8;                    // rq
inline constexpr std::uint32_t page_head = 8, page_cache = 24, page_counters = 40;                         // page
inline constexpr std::uint32_t object_bytes = 0x1400, object_link = 0xa00;                                 // of the cache
inline constexpr std::uint32_t function = 0, next = 8, flags = 16, trampoline = 24, trampoline_size = 32;  // ftrace_ops
inline constexpr std::uint32_t hooks = 0x40, proc_net = 0x100;                                             // net
inline constexpr std::uint32_t children = 0x10, entry_node = 0x20, entry_name = 0x40, entry_ops = 0x48, entry_inode_ops = 0x50,
                               entry_show = 0x58;  // proc_dir_entry
}  // namespace in

class MadeKernel {
 public:
  MadeKernel();

  std::uint64_t phys(std::uint64_t virt) const;
  template <typename T>
  void put(std::uint64_t virt, const T& value) {
    memory.put(phys(virt), value);
  }
  std::uint64_t word(std::uint64_t virt) const { return *introspection::read_as<std::uint64_t>(memory, {phys(virt)}); }
  void put_bytes(std::uint64_t virt, std::initializer_list<std::uint8_t> bytes) {
    for (const std::uint8_t byte : bytes) put(virt++, byte);
  }
  // The bytes of a call (or jump) at `from`.
  void put_branch(std::uint64_t from, std::uint8_t opcode, std::uint64_t to) {
    put(from, opcode);
    put(from + 1, static_cast<std::int32_t>(to - from - 5));
  }
  void put_text(std::uint64_t virt, const std::string& text) {
    memory.put_bytes(phys(virt), std::as_bytes(std::span(text.c_str(), text.size() + 1)));
  }
  static std::uint64_t task(std::size_t number) { return kImage + at::first_task + number * 0x400; }
  static std::uint64_t module(std::size_t number) { return kModules + 0x1'0000 * number + 0x8000; }  // its struct, in its data
  static std::uint64_t heap(std::uint64_t offset) { return kHeap + offset; }
  // Of the slab of processes, which has three.
  static std::uint64_t slab() { return heap(0x8'0000); }
  static std::uint64_t object(std::size_t number) { return slab() + number * in::object_bytes; }
  static std::uint64_t page(std::uint64_t virt) { return kPages + (virt - kDirect) / kPageSize * kPageStruct; }
  void free_object(std::uint64_t at, std::uint64_t next) {
    put(at + in::object_link, next ^ kRandom ^ __builtin_bswap64(at + in::object_link));
  }
  // One that sleeps, and is on no list.
  void put_sleeper(std::size_t number, std::int32_t pid) {
    const std::uint64_t at = object(number);
    put(at + in::running, 1u);
    put(at + in::pid, pid);
    put_text(at + in::comm, "sleeper");
    put(at + in::handlers, heap(0x7000));
    put(at + in::object_link, std::uint64_t{0});
  }
  void unlink(std::uint64_t link) {
    const std::uint64_t next = word(link), prev = word(link + 8);
    put(prev, next);
    put(next + 8, prev);
  }
  introspection::Paging paging() const { return {kImagePhys + at::tables, false}; }
  std::vector<Registers> registers() const;

  TestMemory memory{32 << 20};

 private:
  void link(const std::vector<std::uint64_t>& links);
  void make_text();
  void make_modules();
  void make_tasks();
  void make_slab();
  void make_hooks();
  void make_symbols(std::size_t btf_bytes);
  static std::vector<std::byte> types();
};

// A note has a question mark.
inline std::string kinds(const std::vector<Finding>& findings) {
  std::string out;
  for (const Finding& one : findings) out += (out.empty() ? "" : " ") + one.kind + (one.alarm ? "" : "?");
  return out;
}

inline std::uint64_t MadeKernel::phys(std::uint64_t virt) const {
  if (virt - kImage < kImageBytes) return kImagePhys + (virt - kImage);
  if (virt - kModules < 2 << 20) return kModulesPhys + (virt - kModules);
  if (virt - kHeap < 2 << 20) return kHeapPhys + (virt - kHeap);
  if (virt - kPages < 0x8'0000) return kPagesPhys + (virt - kPages);
  return kIdtPhys + (virt - kIdt);
}

inline std::vector<Registers> MadeKernel::registers() const {
  Registers one;
  one.cr0 = kCr0Paging | kCr0WriteProtect | 1;
  one.cr3 = kImagePhys + at::tables;
  one.cr4 = kCr4Smep | kCr4Smap | kCr4Umip | 0x20;
  one.efer = kEferLongMode | kEferNoExecute | 1;
  one.lstar = function(kEntry);
  one.idt_base = kIdt;
  one.idt_limit = 0xfff;
  return {one, one};
}

// In the order of the list; the first is its head.
inline void MadeKernel::link(const std::vector<std::uint64_t>& links) {
  for (std::size_t i = 0; i < links.size(); ++i) {
    put(links[i], links[(i + 1) % links.size()]);
    put(links[(i + 1) % links.size()] + 8, links[i]);
  }
}

inline void MadeKernel::make_text() {
  for (std::uint64_t i = 0; i < at::text_end; i += 8) put(kImage + i, i * 0x9e37'79b9'7f4a'7c15);
  for (const std::uint64_t number : {kRead, kWrite, kNi}) put(kImage + at::syscalls + number * 8, function(number));
  put(kImage + at::syscalls, function(kNi));
  for (std::uint64_t i = 3; i < 8; ++i) put(kImage + at::syscalls + i * 8, function(kNi));
  for (std::uint64_t i = 0; i < 4; ++i) put(kImage + at::operations + i * 8, function(kShow));
  put_text(kImage + at::banner, "Linux version 6.1.0-test (gcc) #1 SMP\n");
  put(kImage + at::prot, function(kRecv));
  // A label that is off, a traced function that is not, and a static call with its trampoline's key.
  put_bytes(function(kLabelled), {0x0f, 0x1f, 0x44, 0, 0});
  put(kImage + at::jumps, static_cast<std::int32_t>(function(kLabelled) - (kImage + at::jumps)));
  put(kImage + at::jumps + 4, static_cast<std::int32_t>(function(kLabelled) + 32 - (kImage + at::jumps + 4)));
  put_bytes(function(kTraced), {0x0f, 0x1f, 0x44, 0, 0});
  put(kImage + at::ftrace_pages, kImage + at::ftrace_page);
  put(kImage + at::ftrace_page + 8, kImage + at::ftrace_records);
  put(kImage + at::ftrace_page + 16, 1);
  put(kImage + at::ftrace_records, function(kTraced));
  put_branch(function(kCalling), 0xe8, function(kCalled));
  put(kImage + at::key, function(kCalled));
  put(kImage + at::calls, static_cast<std::int32_t>(function(kCalling) - (kImage + at::calls)));
  put(kImage + at::calls + 4, static_cast<std::int32_t>(kImage + at::key - (kImage + at::calls + 4)));
  for (std::uint64_t i = 0; i < 256; ++i) {
    const std::uint64_t to = function(kFault);
    put(kIdt + i * 16, static_cast<std::uint16_t>(to));
    put(kIdt + i * 16 + 2, 0x8e00'0000'0010);
    put(kIdt + i * 16 + 6, static_cast<std::uint16_t>(to >> 16));
    put(kIdt + i * 16 + 8, to >> 32);
  }
}

inline void MadeKernel::make_modules() {
  std::vector<std::uint64_t> links{kImage + at::modules}, objects{kImage + at::kset + 8};
  std::uint64_t parent = 0;
  for (std::size_t i = 0; i < 2; ++i) {
    const std::uint64_t one = module(i), base = kModules + 0x1'0000 * i;
    for (std::uint64_t place = 0; place < 0x6000; place += 8) put(base + place, (place + 7 * i) * 0x9e37'79b9'7f4a'7c15);
    put_text(one + in::name, i == 0 ? "first" : "second");
    put(one + in::core + in::base, base);
    put(one + in::core + in::size, 0x9000);
    put(one + in::core + in::text_size, 0x4000);
    put(one + in::core + in::ro_size, 0x5000);
    put(one + in::core + in::late_size, 0x6000);
    links.push_back(one + in::list);
    put(one + in::kobject + 0x40, one);                    // module_kobject.mod
    put(one + in::kobject + 0x18, heap(0x6000) + i * 64);  // its folder, and that's serial number
    put(heap(0x6000) + i * 64, i + 7);
    objects.push_back(one + in::kobject + 8);
    // Of the tree only the first side is used.
    const std::uint64_t node = one + in::core + in::node;
    put(node, one);
    put(node + 8, parent);
    put(parent == 0 ? kImage + at::tree + 8 : parent + 8, node + 8);
    parent = node + 8;
  }
  link(links);
  put(kImage + at::kset, kImage + at::kset);
  link(objects);
}

inline void MadeKernel::make_tasks() {
  std::vector<std::uint64_t> links;
  for (std::size_t i = 0; i < 4; ++i) {
    const std::uint64_t one = task(i), signal = one + 0x200, number = one + 0x280;
    const auto pid = static_cast<std::int32_t>(i);
    put(one + in::pid, pid);
    put(one + in::tgid, pid);
    put_text(one + in::comm, i == 0 ? "swapper/0" : "task" + std::to_string(i));
    put(one + in::signal, signal);
    link({signal, one + in::thread});
    links.push_back(one + in::tasks);
    put(number, one + in::links);  // struct pid
    if (i != 0) put(kImage + at::pid_ns + 0x40 + 0x10 + i * 8, number);
  }
  link(links);
  put(kImage + at::pid_ns, kImage + at::pid_ns + 0x42);  // a node of the tree, shift 0
  for (std::uint64_t i = 0; i < 2; ++i) {
    const std::uint64_t queue = kImage + at::queues + i * 0x100;
    put(queue + in::processor, static_cast<std::uint32_t>(i));
    put(queue + in::current, task(i * 2));
    put(kImage + at::offsets + i * 8, i * 0x100);
  }
  link({kImage + at::queues + in::fair, task(1) + in::entity});
  link({kImage + at::queues + 0x100 + in::fair, task(2) + in::entity});
  put(kImage + at::processors, 2u);
}

// The first two are free, the third is what the second processor does when it has nothing to do.
inline void MadeKernel::make_slab() {
  const std::uint64_t cache = heap(0x8000);
  put(kImage + at::pages, kPages);
  put(kImage + at::direct, kDirect);
  put(kImage + at::cache, cache);
  put(cache + 8, in::object_bytes);
  put(cache + 16, in::object_link);
  put(cache + 24, 1u);
  put(cache + 32, kRandom);
  put(page(slab()) + in::page_cache, cache);
  put(page(slab()) + in::page_counters, 3u << 16);
  free_object(object(0), object(1));
  free_object(object(1), 0);
  put_sleeper(2, 0);
  put(kImage + at::queues + 0x100 + in::idle, object(2));
}

inline void MadeKernel::make_hooks() {
  put(kImage + at::state, 3u);
  put(kImage + at::ftrace_list, kImage + at::ftrace_end);
  // One netfilter hook.
  put(kImage + at::net + in::hooks + 8, heap(0x1000));
  put(heap(0x1000), std::uint16_t{1});
  put(heap(0x1008), function(kRecv));
  // /proc/net with one file.
  put(kImage + at::net + in::proc_net, heap(0x2000));
  put(heap(0x2000) + in::children, heap(0x2100) + in::entry_node);
  put(heap(0x2100) + in::entry_node, std::uint64_t{0});
  put(heap(0x2100) + in::entry_show, kImage + at::operations);
  put(heap(0x2100) + in::entry_name, heap(0x2200));
  put_text(heap(0x2200), "tcp");
  for (const std::uint64_t head : {at::ksyms, at::unoptimising}) link({kImage + head});
}

// What is named last at a place is its name.
inline void MadeKernel::make_symbols(std::size_t btf_bytes) {
  std::vector<TestSymbol> symbols;
  for (std::uint64_t i = 0; i < at::text_end / kFunctionBytes; ++i) symbols.push_back({function(i), "tfill_" + std::to_string(i)});
  // So many that the table of their addresses is found in memory.
  for (std::uint64_t i = 0; i < 45'000; ++i) symbols.push_back({kImage + at::data_end + 8 + i * 64, "bf" + std::to_string(i)});
  const auto name = [&](std::uint64_t place, const char* text) { symbols.push_back({kImage + place, text}); };
  const auto name_function = [&](std::uint64_t number, const char* text) { symbols.push_back({function(number), text}); };
  name_function(0, "T_stext");
  name_function(kRead, "T__x64_sys_read");
  name_function(kWrite, "T__x64_sys_write");
  name_function(kNi, "T__x64_sys_ni_syscall");
  name_function(kDispatch, "Tx64_sys_call");
  name_function(kEntry, "Tentry_SYSCALL_64");
  name_function(kShow, "ttcp4_seq_show");
  name_function(kTraced, "Tvfs_read");
  name_function(kCaller, "Tftrace_caller");
  name_function(kRecv, "Ttcp_recvmsg");
  name_function(kProbed, "Tvfs_write");
  name(at::text_end, "T_etext");
  name(at::rodata, "D__start_rodata");
  name(at::syscalls, "Dsys_call_table");
  name(at::syscalls + 0x40, "Dother_table");
  name(at::operations, "dtcp4_seq_ops");
  name(at::operations + 0x20, "dno_ops");
  name(at::banner, "Dlinux_banner");
  name(at::jumps, "D__start___jump_table");
  name(at::jumps + 16, "D__stop___jump_table");
  name(at::calls, "D__start_static_call_sites");
  name(at::calls + 8, "D__stop_static_call_sites");
  name(at::offsets, "D__per_cpu_offset");
  name(at::rodata_end, "D__end_rodata");
  name(at::data, "D_sdata");
  name(at::modules, "Dmodules");
  name(at::kset, "Dmodule_kset");
  name(at::tree, "Dmod_tree");
  name(at::mutex, "Dmodule_mutex");
  name(at::lock, "Dtasklist_lock");
  name(at::state, "Dsystem_state");
  name(at::counting, "dthunks_initialized");
  name(at::text_mutex, "Dtext_mutex");
  name(at::call_mutex, "Dstatic_call_mutex");
  name(at::processors, "Dnr_cpu_ids");
  name(at::prot, "Dtcp_prot");
  name(at::key, "D__SCK__x");
  name(at::ftrace_list, "Dftrace_ops_list");
  name(at::ftrace_end, "Dftrace_list_end");
  name(at::ftrace_pages, "Dftrace_pages_start");
  name(at::net, "Dinit_net");
  name(at::proc_root, "Dproc_root");
  name(at::proc_lock, "Dproc_subdir_lock");
  name(at::pid_ns, "Dinit_pid_ns");
  name(at::kprobes, "Dkprobe_table");
  name(at::programs, "Dprog_idr");
  name(at::ksyms, "Dbpf_kallsyms");
  name(at::unoptimising, "Dunoptimizing_list");
  name(at::queues, "Drunqueues");
  name(at::first_task, "Dinit_task");
  name(at::pages, "Dvmemmap_base");
  name(at::direct, "Dpage_offset_base");
  name(at::cache, "Dtask_struct_cachep");
  name(at::data_end, "D_edata");
  name(at::btf, "R__start_BTF");
  name(at::btf + btf_bytes, "R__stop_BTF");
  name(at::tables, "Dinit_top_pgt");
  name(at::image_end, "D_end");
  std::ranges::stable_sort(symbols, {}, &TestSymbol::address);
  memory.put_bytes(kImagePhys + at::symbols, introspection::testing::make_kallsyms(symbols, {true, true, false}, kImage));
}

inline std::vector<std::byte> MadeKernel::types() {
  struct Member {
    const char* name;
    std::uint32_t type, offset;
  };
  TestBtf btf;
  const auto number = btf.add(kInt, "int", 4);
  btf.word(0x0100'0020);
  const auto pointer = btf.add(kPtr, "", 0);
  const auto places = btf.add(kArray, "", 0);
  for (const std::uint32_t word : {pointer, number, 5u}) btf.word(word);
  const auto add = [&](const char* name, std::uint32_t bytes, const std::vector<Member>& members) {
    const auto type = btf.add(kStruct, name, bytes, static_cast<std::uint32_t>(members.size()));
    for (const Member& member : members) btf.member(member.name, member.type, member.offset * 8);
    return type;
  };
  const auto layout = add("module_layout", 64,
                          {{"base", pointer, in::base},
                           {"size", number, in::size},
                           {"text_size", number, in::text_size},
                           {"ro_size", number, in::ro_size},
                           {"ro_after_init_size", number, in::late_size}});
  add("kset", 64, {{"list", pointer, 8}});
  const auto object = add("kobject", 64, {{"entry", pointer, 8}, {"sd", pointer, 0x18}});
  add("kernfs_node", 64, {{"id", pointer, 0}});
  const auto module_object = add("module_kobject", 128, {{"kobj", object, 0}, {"mod", pointer, 0x40}});
  add("module", 0x400,
      {{"state", number, in::state},
       {"list", pointer, in::list},
       {"name", pointer, in::name},
       {"core_layout", layout, in::core},
       {"init_layout", layout, in::init},
       {"mkobj", module_object, in::kobject}});
  add("mutex", 32, {{"owner", pointer, 0}});
  add("latch_tree_root", 24, {{"seq", number, 0}, {"tree", pointer, 8}});
  add("mod_tree_node", 56, {{"mod", pointer, 0}, {"node", pointer, 8}});
  const auto entity = add("sched_entity", 32, {{"group_node", pointer, 0}});
  add("task_struct", 0x200,
      {{"__state", number, in::running},
       {"tasks", pointer, in::tasks},
       {"pid", number, in::pid},
       {"tgid", number, in::tgid},
       {"comm", pointer, in::comm},
       {"exit_state", number, in::exit_state},
       {"signal", pointer, in::signal},
       {"thread_node", pointer, in::thread},
       {"sighand", pointer, in::handlers},
       {"se", entity, in::entity},
       {"pid_links", pointer, in::links}});
  add("signal_struct", 64, {{"thread_head", pointer, 0}});
  const auto array = add("xarray", 16, {{"xa_head", pointer, 0}});
  const auto idr = add("idr", 24, {{"idr_rt", array, 0}});
  add("pid_namespace", 64, {{"idr", idr, 0}});
  add("xa_node", 0x240, {{"shift", number, 0}, {"slots", pointer, 0x10}});
  add("pid", 64, {{"tasks", pointer, 0}});
  add("rq", 0x100,
      {{"curr", pointer, in::current}, {"idle", pointer, in::idle}, {"cfs_tasks", pointer, in::fair}, {"cpu", number, in::processor}});
  add("page", kPageStruct, {{"compound_head", pointer, in::page_head}});
  add("slab", kPageStruct, {{"slab_cache", pointer, in::page_cache}, {"counters", pointer, in::page_counters}});
  add("kmem_cache", 64,
      {{"size", number, 8}, {"red_left_pad", number, 12}, {"offset", number, 16}, {"refcount", number, 24}, {"random", pointer, 32}});
  const auto nf = add("netns_nf", 64, {{"hooks_ipv4", places, 0}});
  add("net", 0x200, {{"nf", nf, in::hooks}, {"proc_net", pointer, in::proc_net}});
  add("ftrace_ops", 64,
      {{"func", pointer, in::function},
       {"next", pointer, in::next},
       {"flags", pointer, in::flags},
       {"trampoline", pointer, in::trampoline},
       {"trampoline_size", pointer, in::trampoline_size}});
  add("ftrace_page", 24, {{"next", pointer, 0}, {"records", pointer, 8}, {"index", number, 16}});
  add("dyn_ftrace", 16, {{"ip", pointer, 0}});
  add("proc_dir_entry", 0x80,
      {{"subdir", pointer, in::children},
       {"subdir_node", pointer, in::entry_node},
       {"name", pointer, in::entry_name},
       {"proc_ops", pointer, in::entry_ops},
       {"proc_iops", pointer, in::entry_inode_ops},
       {"seq_ops", pointer, in::entry_show}});
  const auto optimised = add("arch_optimized_insn", 16, {{"copied_insn", pointer, 0}});
  const auto kprobe = add(
      "kprobe", 0x60,
      {{"hlist", pointer, 0}, {"addr", pointer, 0x10}, {"pre_handler", pointer, 0x18}, {"opcode", number, 0x20}, {"flags", number, 0x24}});
  add("optimized_kprobe", 0x90, {{"kp", kprobe, 0}, {"list", pointer, 0x60}, {"optinsn", optimised, 0x70}});
  add("seq_operations", 32, {{"start", pointer, 0}, {"stop", pointer, 8}, {"next", pointer, 16}, {"show", pointer, 24}});
  add("bpf_ksym", 64, {{"start", pointer, 0}, {"end", pointer, 8}, {"lnode", pointer, 16}});
  return btf.bytes();
}

inline MadeKernel::MadeKernel() {
  Tables tables(memory, kImagePhys + at::tables);
  for (std::uint64_t place = 0; place < kImageBytes; place += 2 << 20) tables.map(kImage + place, kImagePhys + place, 4, 2);
  tables.map(kModules, kModulesPhys, 4, 2);
  tables.map(kHeap, kHeapPhys, 4, 2);
  tables.map(kIdt, kIdtPhys, 4, 1);
  for (std::uint64_t place = 0; place < 0x8'0000; place += kPageSize) tables.map(kPages + place, kPagesPhys + place, 4, 1);
  make_text();
  make_modules();
  make_tasks();
  make_slab();
  make_hooks();
  const auto btf = types();
  memory.put_bytes(kImagePhys + at::btf, btf);
  make_symbols(btf.size());
}

}  // namespace mhv::integrity::testing
