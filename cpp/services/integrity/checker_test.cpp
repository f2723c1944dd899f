// One change after the other to a kernel made by hand: each is found and named, and what a kernel does itself is not.
#include "integrity/checker.h"

#include <gmock/gmock.h>

#include "base/code_of_test.h"
#include "integrity/testing.h"

namespace mhv::integrity {
namespace {

using namespace testing;
using ::testing::IsEmpty;

constexpr std::uint64_t kNobody = kHeap + 0x10'0000;  // where a rootkit has its code

class CheckerTest : public ::testing::Test {
 protected:
  // The findings of a look at everything; what a look at nothing but known faults finds is the same.
  std::vector<Finding> check() {
    auto out = checker.check(made.registers());
    const Written nothing;
    EXPECT_EQ(kinds(checker.check(made.registers(), &nothing)), kinds(out)) << "what is wrong is told until it is right";
    return out;
  }
  void expect_one(const std::string& kind, const std::string& subject) {
    const auto found = check();
    ASSERT_EQ(kinds(found), kind);
    EXPECT_EQ(found[0].subject, subject) << found[0].detail;
  }

  MadeKernel made;
  Kernel kernel{made.memory, made.paging()};
  Checker checker{kernel, made.registers()};
};

TEST_F(CheckerTest, NothingIsWrong) {
  EXPECT_THAT(checker.unchecked(), IsEmpty());
  EXPECT_EQ(checker.measured_pages(), 16u + 8u + 2 * 6u);
  EXPECT_EQ(kinds(check()), "");
}

TEST_F(CheckerTest, OneThatStarts) {
  made.put(kImage + at::state, 1u);
  EXPECT_EQ(code_of([&] { Checker(kernel, made.registers()); }), Code::kBusy);
  EXPECT_EQ(code_of([&] { Checker(kernel, {}); }), Code::kBusy);
}

TEST_F(CheckerTest, PatchedFunction) {
  made.put_branch(function(kRecv), 0xe9, kNobody);
  expect_one("kernel_text", "tcp_recvmsg");
}

TEST_F(CheckerTest, EachByteOfTextCounts) {
  for (const std::uint64_t place : {std::uint64_t{0x20}, std::uint64_t{0xfff}, std::uint64_t{0x1000}, at::text_end - 1}) {
    const auto was = static_cast<std::uint8_t>(made.word(kImage + place));
    made.put(kImage + place, static_cast<std::uint8_t>(was ^ 1));
    EXPECT_EQ(kinds(check()), "kernel_text") << place;
    made.put(kImage + place, was);
    EXPECT_EQ(kinds(check()), "") << place;
  }
}

TEST_F(CheckerTest, SystemCalls) {
  made.put(kImage + at::syscalls + 8, kNobody);
  expect_one("syscall_table", "sys_call_table[1]");
  made.put(kImage + at::syscalls + 8, function(kRead));
  made.put_branch(function(kDispatch) + 16, 0xe9, kNobody);
  expect_one("syscall_dispatch", "x64_sys_call");
  made.put_branch(function(kEntry) + 16, 0xe9, kNobody);
  EXPECT_EQ(kinds(check()), "syscall_dispatch syscall_dispatch");
}

// What was there before it was trusted is told by what it is.
TEST_F(CheckerTest, WrongFromTheBeginning) {
  made.put(kImage + at::syscalls + 8, kNobody);
  made.put(kImage + at::operations + 24, kNobody);
  Checker late(kernel, made.registers());
  const auto found = late.check(made.registers());
  ASSERT_EQ(kinds(found), "syscall_table function_pointer");
  EXPECT_EQ(found[1].subject, "tcp4_seq_ops.show");
}

TEST_F(CheckerTest, FunctionPointers) {
  made.put(kImage + at::operations + 24, kNobody);
  expect_one("function_pointer", "tcp4_seq_ops.show");
  made.put(kImage + at::operations + 24, function(kShow));
  made.put(kImage + at::prot, kNobody);
  expect_one("function_pointer", "tcp_prot");
  made.put(kImage + at::prot, MadeKernel::module(0) - 0x8000);
  EXPECT_EQ(kinds(check()), "") << "a module's function";
}

TEST_F(CheckerTest, ReadOnlyData) {
  made.put(kImage + at::banner + 8, 'X');
  expect_one("kernel_rodata", "linux_banner");
}

TEST_F(CheckerTest, ProcEntries) {
  made.put(MadeKernel::heap(0x2100) + in::entry_show, kNobody);
  expect_one("function_pointer", "/proc tcp: seq_ops");
}

TEST_F(CheckerTest, Netfilter) {
  made.put(MadeKernel::heap(0x1008), kNobody);
  expect_one("netfilter", "ipv4 hook 1");
  made.put(kImage + at::net + in::hooks + 8, std::uint64_t{0x1234});
  expect_one("netfilter", "ipv4 hook 1");
}

TEST_F(CheckerTest, FtraceOperations) {
  const std::uint64_t forged = MadeKernel::heap(0x3000);
  made.put(kImage + at::ftrace_list, forged);
  made.put(forged + in::next, kImage + at::ftrace_end);
  made.put(forged, kNobody);
  EXPECT_EQ(kinds(check()), "ftrace");
  made.put(forged, MadeKernel::module(0) - 0x8000);
  EXPECT_EQ(kinds(check()), "") << "a module traces";
  made.put(forged + in::flags, std::uint64_t{1} << 13);
  EXPECT_EQ(kinds(check()), "ftrace") << "and redirects";
  made.put(forged + in::next, forged);
  EXPECT_EQ(kinds(check()).substr(0, 6), "ftrace");
}

TEST_F(CheckerTest, Registers) {
  auto now = made.registers();
  now[1].lstar = kNobody;
  EXPECT_EQ(kinds(checker.check(now)), "lstar");
  now = made.registers();
  now[1].lstar = function(kRead);
  EXPECT_EQ(kinds(checker.check(now)), "lstar");
  now = made.registers();
  now[0].cr0 &= ~kCr0WriteProtect;
  now[1].cr4 &= ~(kCr4Smep | kCr4Smap | kCr4Umip);
  now[1].efer &= ~kEferNoExecute;
  EXPECT_EQ(kinds(checker.check(now)), "cr0_wp smep smap umip efer_nx");
  now = made.registers();
  now[1].idt_base = kNobody;
  EXPECT_EQ(kinds(checker.check(now)), "idt");
  now[1] = {};
  EXPECT_EQ(kinds(checker.check(now)), "") << "a processor that is off";
}

TEST_F(CheckerTest, Gates) {
  made.put(kIdt + 14 * 16, std::uint16_t{0x1234});
  expect_one("idt", "vector 14");
}

TEST_F(CheckerTest, OtherPagesBehindText) {
  Tables tables(made.memory, kImagePhys + 0x70'0000);  // a copy of the kernel's, with another first page of text
  made.memory.put_bytes(kImagePhys + 0x6f'0000, std::vector<std::byte>(kPageSize));
  tables.map(kImage, kImagePhys + 0x6f'0000, 4, 1);
  for (std::uint64_t page = 1; page < 512; ++page) tables.map(kImage + page * kPageSize, kImagePhys + page * kPageSize, 4, 1);
  auto now = made.registers();
  now[1].cr3 = kImagePhys + 0x70'0000;
  EXPECT_EQ(kinds(checker.check(now)), "page_tables") << "of one process";
  // The kernel's own root goes the same way.
  const auto entry = *introspection::read_as<std::uint64_t>(made.memory, {kImagePhys + 0x70'0000 + 511 * 8});
  made.memory.put(kImagePhys + at::tables + 511 * 8, entry);
  EXPECT_THAT(kinds(checker.check(made.registers())), ::testing::HasSubstr("page_tables"));
}

TEST_F(CheckerTest, HiddenProcesses) {
  made.unlink(MadeKernel::task(3) + in::tasks);
  expect_one("hidden_process", "3 task3");
}

TEST_F(CheckerTest, ProcessWithoutANumber) {
  made.put(MadeKernel::task(3) + 0x280, std::uint64_t{0});
  expect_one("hidden_process", "3 task3");
}

TEST_F(CheckerTest, ProcessThatOnlyRuns) {
  made.unlink(MadeKernel::task(2) + in::tasks);
  made.put(MadeKernel::task(2) + 0x280, std::uint64_t{0});
  expect_one("hidden_process", "2 task2");
  made.put(MadeKernel::task(2) + in::exit_state, 16u);
  EXPECT_EQ(kinds(check()), "") << "it is just ending";
}

TEST_F(CheckerTest, ListOfProcessesInAChange) {
  made.put(MadeKernel::task(3) + in::tasks, MadeKernel::task(3) + in::tasks);  // a loop
  made.put(kImage + at::lock, std::uint8_t{0xff});
  EXPECT_EQ(kinds(check()), "") << "the kernel holds the lock";
  made.put(kImage + at::lock, std::uint8_t{0});
  EXPECT_EQ(kinds(check()), "hidden_process") << "nobody does";
}

TEST_F(CheckerTest, HiddenModules) {
  const std::uint64_t one = MadeKernel::module(1);
  made.unlink(one + in::list);
  EXPECT_EQ(kinds(checker.check(made.registers())), "module_unloaded? hidden_module");
  made.unlink(one + in::kobject + 8);
  const auto found = check();
  ASSERT_EQ(kinds(found), "hidden_module");
  EXPECT_EQ(found[0].subject, "second");
}

TEST_F(CheckerTest, ModuleOffSysfs) {
  made.unlink(MadeKernel::module(0) + in::kobject + 8);
  expect_one("hidden_module", "first");
}

TEST_F(CheckerTest, ModulesCode) {
  made.put(kModules + 0x100, std::uint64_t{0});
  expect_one("module_text", "first");
  made.put(kModules + 0x1'0000 + 0x4800, std::uint64_t{0});
  EXPECT_EQ(kinds(check()), "module_text module_rodata");
}

TEST_F(CheckerTest, ModulesComeAndGo) {
  const std::uint64_t one = MadeKernel::module(1);
  made.put(one + in::state, 2u);  // going: its text is still looked at
  EXPECT_EQ(kinds(check()), "");
  made.unlink(one + in::list);
  made.unlink(one + in::kobject + 8);
  made.put(MadeKernel::module(0) + in::core + in::node + 16, std::uint64_t{0});
  EXPECT_EQ(kinds(checker.check(made.registers())), "module_unloaded?");
  EXPECT_EQ(kinds(check()), "");
}

TEST_F(CheckerTest, LoadedAgainAtTheSamePlace) {
  made.put(kModules + 0x100, std::uint64_t{0});
  made.put(MadeKernel::heap(0x6000), std::uint64_t{9});
  EXPECT_EQ(kinds(checker.check(made.registers())), "module_unloaded? module_loaded?");
  EXPECT_EQ(kinds(check()), "");
}

// It is on the list, with its code, before it has a folder in /sys.
TEST_F(CheckerTest, JustBeingLoadedAtTheSamePlace) {
  const std::uint64_t one = MadeKernel::module(0);
  made.put(kModules + 0x100, std::uint64_t{0});
  made.put(MadeKernel::heap(0x6000), std::uint64_t{0});
  expect_one("module_text", "first");
  made.put(one + in::state, 1u);
  EXPECT_EQ(kinds(checker.check(made.registers())), "module_unloaded?");
  EXPECT_EQ(kinds(check()), "");
  made.put(one + in::state, 0u);
  made.put(MadeKernel::heap(0x6000), std::uint64_t{9});
  EXPECT_EQ(kinds(checker.check(made.registers())), "module_loaded?");
}

// The kernel in the middle of a change: what is read first is not there any more a moment later.
class ChangingMemory : public introspection::PhysicalMemory {
 public:
  explicit ChangingMemory(const TestMemory& now) : now_(now) {}
  void once(GuestPhys at, std::uint64_t was) {
    at_ = at;
    was_ = was;
  }
  bool is_read() const { return !at_; }
  bool read(GuestPhys at, std::span<std::byte> out) const override {
    if (!now_.read(at, out)) return false;
    if (!at_ || *at_ < at || *at_ - at + sizeof was_ > out.size()) return true;
    std::memcpy(out.data() + (*at_ - at), &was_, sizeof was_);
    at_.reset();
    return true;
  }
  std::vector<introspection::PhysRange> ranges() const override { return now_.ranges(); }

 private:
  const TestMemory& now_;
  mutable std::optional<GuestPhys> at_;
  std::uint64_t was_ = 0;
};

TEST(ChangingKernel, IsLookedAtAgain) {
  MadeKernel made;
  ChangingMemory memory(made.memory);
  const Kernel kernel(memory, made.paging());
  Checker checker(kernel, made.registers());
  memory.once({made.phys(MadeKernel::heap(0x1008))}, kNobody);
  EXPECT_EQ(kinds(checker.check(made.registers())), "");
  EXPECT_TRUE(memory.is_read());
}

TEST_F(CheckerTest, NewModuleIsMeasuredWhenItHasStarted) {
  const std::uint64_t one = MadeKernel::module(1);
  made.put(one + in::state, 1u);
  Checker late(kernel, made.registers());
  EXPECT_EQ(kinds(late.check(made.registers())), "");
  made.put(one + in::state, 0u);
  EXPECT_EQ(kinds(late.check(made.registers())), "module_loaded?");
  made.put(kModules + 0x1'0100, std::uint64_t{0});
  EXPECT_EQ(kinds(late.check(made.registers())), "module_text");
}

TEST_F(CheckerTest, Label) {
  made.put_branch(function(kLabelled), 0xe9, function(kLabelled) + 32);
  EXPECT_EQ(kinds(check()), "") << "on";
  made.put_bytes(function(kLabelled), {0x0f, 0x1f, 0x44, 0, 0});
  EXPECT_EQ(kinds(check()), "") << "off again";
  made.put_branch(function(kLabelled), 0xe9, function(kLabelled) + 16);
  expect_one("kernel_text", "fill_7");
}

TEST_F(CheckerTest, SiteThatIsJustChanged) {
  made.put_bytes(function(kLabelled), {0xcc});
  made.put(kImage + at::text_mutex, MadeKernel::task(1));
  EXPECT_EQ(kinds(check()), "") << "the kernel holds the lock";
  made.put(kImage + at::text_mutex, std::uint64_t{0});
  EXPECT_EQ(kinds(check()), "kernel_text") << "nobody does";
}

TEST_F(CheckerTest, Tracing) {
  made.put_branch(function(kTraced), 0xe8, function(kCaller));
  EXPECT_EQ(kinds(check()), "") << "ftrace's entry";
  const std::uint64_t trampoline = kModules + 0x18'0000, ops = MadeKernel::heap(0x3000);
  made.put_branch(function(kTraced), 0xe8, trampoline);
  expect_one("kernel_text", "vfs_read");
  made.put(ops, function(kCaller));
  made.put(ops + in::next, kImage + at::ftrace_end);
  made.put(ops + in::trampoline, trampoline);
  made.put(ops + in::trampoline_size, std::uint64_t{64});
  made.put(kImage + at::ftrace_list, ops);
  EXPECT_EQ(kinds(check()), "") << "a trampoline of operations that are on the list";
  made.put_branch(function(kTraced), 0xe8, function(kRead));
  expect_one("kernel_text", "vfs_read");
}

TEST_F(CheckerTest, StaticCall) {
  made.put_branch(function(kCalling), 0xe8, function(kOtherCalled));
  expect_one("kernel_text", "fill_10");
  made.put(kImage + at::key, function(kOtherCalled));
  EXPECT_EQ(kinds(check()), "") << "its key says so";
  made.put(kImage + at::key, kNobody);
  made.put_branch(function(kCalling), 0xe8, kNobody & 0xffff'ffff);
  EXPECT_THAT(kinds(check()), ::testing::HasSubstr("kernel_text")) << "a key that was forged too";
}

TEST_F(CheckerTest, Bpf) {
  const std::uint64_t program = kModules + 0x19'0000, symbol = MadeKernel::heap(0x4000);
  made.put(kImage + at::prot, program);
  expect_one("function_pointer", "tcp_prot");
  made.put(symbol, program);
  made.put(symbol + 8, program + 64);
  for (const std::uint64_t side : {std::uint64_t{0}, std::uint64_t{8}}) {
    made.put(kImage + at::ksyms + side, symbol + 16);
    made.put(symbol + 16 + side, kImage + at::ksyms);
  }
  EXPECT_EQ(kinds(check()), "") << "compiled BPF";
}

TEST_F(CheckerTest, Probes) {
  const std::uint64_t probe = MadeKernel::heap(0x5000), place = function(kProbed) + 4;
  const auto was = static_cast<std::uint8_t>(made.word(place));
  made.put_bytes(place, {0xcc});
  expect_one("kernel_text", "vfs_write");
  made.put(probe + 0x10, place);
  made.put(probe + 0x18, MadeKernel::module(0) - 0x8000);
  made.put(probe + 0x20, was);
  made.put(kImage + at::kprobes, probe);
  const auto found = checker.check(made.registers());
  ASSERT_EQ(kinds(found), "kprobe?");
  EXPECT_EQ(found[0].detail, "is probed by [first]+0x0");
  EXPECT_EQ(kinds(check()), "") << "told once";
  made.put(probe + 0x20, static_cast<std::uint8_t>(was + 1));
  EXPECT_EQ(kinds(check()), "kernel_text") << "one that does not say what stood there";
  made.put(probe + 0x20, was);
  made.put(probe + 0x18, kNobody);
  EXPECT_EQ(kinds(check()), "kprobe") << "and one that calls nobody's code";
}

TEST_F(CheckerTest, ProbesThatJump) {
  const std::uint64_t probe = MadeKernel::heap(0x5000), place = function(kProbed) + 4, was = made.word(place);
  made.put(probe + 0x10, place);
  made.put(probe + 0x20, static_cast<std::uint8_t>(was));
  made.put(probe + 0x70, static_cast<std::uint32_t>(was >> 8));
  made.put(kImage + at::kprobes, probe);
  made.put_branch(place, 0xe9, kNobody & 0xffff'ffff);
  EXPECT_EQ(kinds(checker.check(made.registers())), "kprobe?");
  made.put_bytes(place, {0xcc});
  EXPECT_EQ(kinds(check()), "") << "halfway";
  made.put(kImage + at::kprobes, std::uint64_t{0});
  EXPECT_EQ(kinds(check()), "kernel_text") << "nobody's probe";
  for (const std::uint64_t side : {std::uint64_t{0}, std::uint64_t{8}}) {
    made.put(kImage + at::unoptimising + side, probe + 0x60);
    made.put(probe + 0x60 + side, kImage + at::unoptimising);
  }
  EXPECT_EQ(kinds(check()), "") << "one that ends";
}

TEST_F(CheckerTest, OnlyWrittenPagesAreLookedAt) {
  made.put_branch(function(kRecv), 0xe9, kNobody);
  made.put(kImage + at::prot, kNobody);
  Written written{{{kImagePhys + at::text_end}, kPageSize}};
  EXPECT_EQ(kinds(checker.check(made.registers(), &written)), "");
  written = {{{kImagePhys + at::prot}, 8}};
  EXPECT_EQ(kinds(checker.check(made.registers(), &written)), "function_pointer");
  written = {{{kImagePhys + 0x300}, 1}};
  EXPECT_EQ(kinds(checker.check(made.registers(), &written)), "kernel_text function_pointer");
}

}  // namespace
}  // namespace mhv::integrity
