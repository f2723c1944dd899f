#include "broker/process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/code_of_test.h"
#include "base/process.h"

namespace mhv::broker {
namespace {

TEST(Names, OnlyInstalledEmulatorsAreQemu) {
  EXPECT_TRUE(names_qemu("/usr/bin/qemu-system-x86_64"));
  EXPECT_TRUE(names_qemu("/usr/bin/qemu-system-x86_64 (deleted)"));
  EXPECT_TRUE(names_qemu("/usr/local/bin/qemu-system-aarch64"));
  for (const char* path : {"", "/usr/bin/bash", "/home/u/qemu-system-x86_64", "/usr/bin/qemu-img", "/usr/bin/qemu-system-",
                           "qemu-system-x86_64", "/usr/../home/u/qemu-system-x86_64", "/usr/qemu-system-x86_64/bash"}) {
    EXPECT_FALSE(names_qemu(path)) << path;
  }
}

TEST(Names, OnlyMemoryFilesHoldRam) {
  EXPECT_TRUE(names_ram_file("/memfd:pc.ram (deleted)"));
  EXPECT_TRUE(names_ram_file("/dev/shm/qemu-ram"));
  EXPECT_TRUE(names_ram_file("/dev/hugepages/libvirt/qemu/1-x/pc.ram"));
  EXPECT_TRUE(names_ram_file("/var/lib/libvirt/qemu/ram/1-guest/pc.ram"));
  for (const char* path : {"", "/usr/lib/x86_64-linux-gnu/libc.so.6", "/etc/passwd", "/memfd:", "/dev/shm/", "/dev/shm/../../etc/passwd",
                           "/var/lib/libvirt/images/disk.qcow2", "anon_inode:[userfaultfd]"}) {
    EXPECT_FALSE(names_ram_file(path)) << path;
  }
}

TEST(Maps, FindsExactlyTheSharedWritableMapping) {
  const std::string maps =
      "00400000-00500000 r-xp 00000000 08:01 11    /usr/bin/qemu\n"
      "7f0000000000-7f0004000000 rw-s 00000000 00:01 1027    /memfd:ram (deleted)\n"
      "7f0004000000-7f0005000000 rw-p 00000000 00:01 1028    /memfd:private (deleted)\n";
  EXPECT_TRUE(maps_shared_writable(maps, 0x7f0000000000, 0x7f0004000000, 1027));
  EXPECT_FALSE(maps_shared_writable(maps, 0x7f0000000000, 0x7f0004000000, 1));
  EXPECT_FALSE(maps_shared_writable(maps, 0x7f0000000000, 0x7f0003000000, 1027));
  EXPECT_FALSE(maps_shared_writable(maps, 0x7f0004000000, 0x7f0005000000, 1028));
  EXPECT_FALSE(maps_shared_writable(maps, 0x400000, 0x500000, 11));
  EXPECT_FALSE(maps_shared_writable("7f0000000000-7f0004000000 rw-s 0000", 0x7f0000000000, 0x7f0004000000, 1027));
  EXPECT_FALSE(maps_shared_writable("", 0, 0, 0));
}

TEST(Process, RefusesWhatIsNoGuest) {
  EXPECT_EQ(code_of([] { QemuProcess(0, 1); }), Code::kInvalid);
  EXPECT_EQ(code_of([] { QemuProcess(-5, 1); }), Code::kInvalid);
  EXPECT_EQ(code_of([] { QemuProcess(1, 1); }), Code::kInvalid);
  EXPECT_EQ(code_of([] { QemuProcess(::getpid(), 1); }), Code::kGone);  // another start time
  const std::uint64_t mine = identify_process(::getpid())->start_time;
  EXPECT_EQ(code_of([&] { QemuProcess(::getpid(), mine); }), Code::kPermission);
}

}  // namespace
}  // namespace mhv::broker
