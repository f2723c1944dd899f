// A kernel and its processes, made by hand: the tables, structures and lists that a Linux has.
#include "introspection/processes.h"

#include <gmock/gmock.h>

#include "base/code_of_test.h"
#include "introspection/testing.h"

namespace mhv::introspection {
namespace {

using namespace testing;

constexpr std::uint64_t kVirt = 0xffff'ffff'9a00'0000, kPhys = 16 << 20, kImageBytes = 16 << 20;
constexpr std::uint64_t kRoot = 0x10'0000, kBanner = 0x20'0000, kTasks = 0x30'0000, kBtf = 0x40'0000, kSymbols = 0x50'0000;  // in the image
constexpr const char* kBannerText = "Linux version 6.1.0-test (gcc) #1 SMP\n";

constexpr std::uint32_t kTaskBytes = 4096;
constexpr std::uint32_t kLinks = 0x100, kTgid = 0x110, kParent = 0x118, kComm = 0x120, kMm = 0x130;  // of a task
constexpr std::uint32_t kArgStart = 0x10, kArgEnd = 0x18, kPgd = 0x20;                               // of a memory

class TestKernel {
 public:
  explicit TestKernel(const std::string& banner = kBannerText) : tables_(memory, kPhys + kRoot) {
    for (std::uint64_t at = 0; at < kImageBytes; at += 2 << 20) tables_.map(kVirt + at, kPhys + at, 4, 2);
    memory.put_bytes(kPhys + kBanner, std::as_bytes(std::span(banner.c_str(), banner.size() + 1)));
    const auto btf = types();
    memory.put_bytes(kPhys + kBtf, btf);
    std::vector<TestSymbol> symbols;
    for (std::uint64_t at = 8; at < kImageBytes; at += 1 << 8) symbols.push_back({kVirt + at, "tfill_" + std::to_string(at)});
    for (const auto& [at, name] : {std::pair(kRoot, "Dinit_top_pgt"), std::pair(kBanner, "Rlinux_banner"), std::pair(kTasks, "Dinit_task"),
                                   std::pair(kBtf, "R__start_BTF"), std::pair(kBtf + btf.size(), "R__stop_BTF")}) {
      symbols.push_back({kVirt + at, name});
    }
    std::ranges::stable_sort(symbols, {}, &TestSymbol::address);
    memory.put_bytes(kPhys + kSymbols, make_kallsyms(symbols, {true, true, true}, kVirt));
    add_task("swapper/0", 0, 0);
  }

  // Behind the one that was added last.
  void add_task(const std::string& name, std::int32_t pid, std::size_t parent, std::uint64_t mm = 0) {
    const std::size_t number = count_++;
    const std::uint64_t at = phys_of_task(number);
    memory.put(at + kTgid, pid);
    memory.put(at + kParent, virt_of_task(parent));
    memory.put_bytes(at + kComm, std::as_bytes(std::span(name.c_str(), name.size() + 1)));
    memory.put(at + kMm, mm);
    for (std::size_t i = 0; i < count_; ++i) {
      const std::size_t next = (i + 1) % count_;
      memory.put(phys_of_task(i) + kLinks, virt_of_task(next) + kLinks);
      memory.put(phys_of_task(next) + kLinks + 8, virt_of_task(i) + kLinks);
    }
  }
  // Memory of a process that begins with these arguments; returns its mm.
  std::uint64_t add_memory(std::string_view arguments) {
    constexpr std::uint64_t kUser = 0x7ffd'0000'0000, kPage = 0x38'0000, kMmAt = 0x3a'0000, kUserRoot = 0x3c'0000;
    Tables tables(memory, kPhys + kUserRoot);
    tables.map(kUser, kPhys + kPage, 4, 1);
    memory.put_bytes(kPhys + kPage + 16, std::as_bytes(std::span(arguments)));
    memory.put(kPhys + kMmAt + kArgStart, kUser + 16);
    memory.put(kPhys + kMmAt + kArgEnd, kUser + 16 + arguments.size());
    memory.put(kPhys + kMmAt + kPgd, kVirt + kUserRoot);
    return kVirt + kMmAt;
  }
  static std::uint64_t phys_of_task(std::size_t number) { return kPhys + kTasks + number * kTaskBytes; }
  static std::uint64_t virt_of_task(std::size_t number) { return kVirt + kTasks + number * kTaskBytes; }
  Paging paging() const { return {tables_.root(), false}; }

  TestMemory memory{40 << 20};

 private:
  static std::vector<std::byte> types() {
    TestBtf btf;
    const auto number = btf.add(kInt, "int", 4);
    btf.word(0x0100'0020);
    const auto list = btf.add(kStruct, "list_head", 16);
    const auto pointer = btf.add(kPtr, "", 0);
    btf.add(kStruct, "task_struct", kTaskBytes, 5);
    btf.member("tasks", list, kLinks * 8);
    btf.member("tgid", number, kTgid * 8);
    btf.member("real_parent", pointer, kParent * 8);
    btf.member("comm", list, kComm * 8);
    btf.member("mm", pointer, kMm * 8);
    btf.add(kStruct, "mm_struct", 256, 3);
    btf.member("arg_start", pointer, kArgStart * 8);
    btf.member("arg_end", pointer, kArgEnd * 8);
    btf.member("pgd", pointer, kPgd * 8);
    return btf.bytes();
  }

  Tables tables_;
  std::size_t count_ = 0;
};

TEST(KernelTest, IsFound) {
  const TestKernel made;
  const Kernel kernel(made.memory, made.paging());
  EXPECT_EQ(kernel.banner() + "\n", kBannerText);
  EXPECT_EQ(kernel.symbol("linux_banner"), GuestVirt{kVirt + kBanner});
  EXPECT_EQ(kernel.offset("task_struct", "comm"), kComm);
  EXPECT_EQ(code_of([&] { kernel.symbol("none"); }), Code::kUnsupported);
  EXPECT_EQ(code_of([&] { kernel.offset("task_struct", "none"); }), Code::kUnsupported);
}

TEST(KernelTest, OneThatDoesNotRunIsNot) {
  const TestKernel made;
  EXPECT_EQ(code_of([&] { Kernel(made.memory, {0x20'0000, false}); }), Code::kUnsupported) << "page tables of another";
  EXPECT_EQ(code_of([&] { Kernel(TestMemory(8 << 20), {0x1000, false}); }), Code::kUnsupported);
  const TestKernel no_linux("Another version");
  EXPECT_EQ(code_of([&] { Kernel(no_linux.memory, no_linux.paging()); }), Code::kUnsupported);
}

TEST(ProcessesTest, AreListed) {
  TestKernel made;
  made.add_task("init", 1, 0, made.add_memory(std::string_view("/sbin/init\0splash\0", 18)));
  made.add_task("kworker/0:1", 17, 0);
  made.add_task("gone", 23, 1, kVirt + 0x3e'0000);  // its memory is empty
  const Kernel kernel(made.memory, made.paging());
  const auto found = Processes(kernel).list_with_commands();
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].pid, 1);
  EXPECT_EQ(found[0].name, "init");
  EXPECT_EQ(found[0].command, "/sbin/init splash");
  EXPECT_FALSE(found[0].kernel_thread);
  EXPECT_EQ(found[1].name, "kworker/0:1");
  EXPECT_TRUE(found[1].kernel_thread);
  EXPECT_EQ(found[2].parent, 1);
  EXPECT_EQ(found[2].command, "");
  EXPECT_EQ(Processes(kernel).list()[0].command, "");
  EXPECT_EQ(Processes(kernel).find(17).task, found[1].task);
  EXPECT_EQ(code_of([&] { Processes(kernel).find(18); }), Code::kNotFound);
}

TEST(ProcessesTest, AListThatDoesNotHoldTogether) {
  TestKernel made;
  made.add_task("init", 1, 0);
  made.add_task("hidden", 666, 1);
  const Kernel kernel(made.memory, made.paging());
  const Processes processes(kernel);
  made.memory.put(TestKernel::phys_of_task(1) + kLinks, TestKernel::virt_of_task(1) + kLinks);  // a loop
  EXPECT_EQ(code_of([&] { processes.list(); }), Code::kBusy);
  made.memory.put(TestKernel::phys_of_task(1) + kLinks, std::uint64_t{0x1234});  // nowhere
  EXPECT_EQ(code_of([&] { processes.list(); }), Code::kBusy);
  made.memory.put(TestKernel::phys_of_task(1) + kLinks, TestKernel::virt_of_task(0) + kLinks);  // one way past "hidden"
  EXPECT_EQ(code_of([&] { processes.list(); }), Code::kBusy);
}

}  // namespace
}  // namespace mhv::introspection
