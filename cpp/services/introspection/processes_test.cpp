#include "introspection/processes.h"

#include <gmock/gmock.h>

#include "base/code_of_test.h"
#include "introspection/test_kernel.h"

namespace mhv::introspection {
namespace {

using namespace testing;

TEST(KernelTest, IsFound) {
  TestKernel made;
  const Kernel kernel = made.kernel();
  EXPECT_EQ(kernel.banner() + "\n", TestKernel::kBanner);
  EXPECT_EQ(kernel.symbol("linux_banner"), GuestVirt{made.symbol("Rlinux_banner")});
  EXPECT_EQ(kernel.offset("task_struct", "comm"), made.offset("task_struct", "comm"));
  EXPECT_EQ(code_of([&] { kernel.symbol("none"); }), Code::kUnsupported);
  EXPECT_EQ(code_of([&] { kernel.offset("task_struct", "none"); }), Code::kUnsupported);
}

TEST(KernelTest, OneThatDoesNotRunIsNot) {
  TestKernel made;
  made.write_symbols();
  EXPECT_EQ(code_of([&] { Kernel(made.memory, {0x20'0000, false}); }), Code::kUnsupported) << "page tables of another";
  EXPECT_EQ(code_of([&] { Kernel(TestMemory(8 << 20), {0x1000, false}); }), Code::kUnsupported);
  TestKernel no_linux(Style::kNew, "Another version");
  EXPECT_EQ(code_of([&] { no_linux.kernel(); }), Code::kUnsupported);
}

TEST(ProcessesTest, AreListed) {
  TestKernel made;
  made.add_task("init", 1, 0, made.add_memory(std::string_view("/sbin/init\0splash\0", 18)));
  made.add_task("kworker/0:1", 17, 0);
  made.add_task("gone", 23, 1, TestKernel::kVirt + 0x3e'0000);  // its memory is empty
  const Kernel kernel = made.kernel();
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
  const Kernel kernel = made.kernel();
  const Processes processes(kernel);
  const std::uint64_t links = TestKernel::task(1) + made.offset("task_struct", "tasks");
  made.put(links, links);  // a loop
  EXPECT_EQ(code_of([&] { processes.list(); }), Code::kBusy);
  made.put(links, std::uint64_t{0x1234});  // nowhere
  EXPECT_EQ(code_of([&] { processes.list(); }), Code::kBusy);
  made.put(links, TestKernel::task(0) + made.offset("task_struct", "tasks"));  // one way past "hidden"
  EXPECT_EQ(code_of([&] { processes.list(); }), Code::kBusy);
}

}  // namespace
}  // namespace mhv::introspection
