#include "guest/live_guest.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

namespace mhv::guest {
namespace {

constexpr std::size_t kBytes = 16 * kPageSize;

TEST(LiveGuest, RemembersThatTheBalloonMovedUntilAsked) {
  const Fd device = Fd::own(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (!device) GTEST_SKIP() << "no /dev/userfaultfd";
  Fd uffd = Fd::own(::ioctl(device.get(), _IO(0xaa, 0), O_CLOEXEC | O_NONBLOCK));
  ASSERT_TRUE(uffd);
  void* at = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(at, MAP_FAILED);
  std::array<int, 2> ends{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  const Fd qemu = Fd::own(ends[0]);
  const std::string devices = R"({"return":[{"name":"b","type":"child<virtio-balloon-pci>"}],"id":1})"
                              "\n";
  ASSERT_EQ(::write(qemu.get(), devices.data(), devices.size()), static_cast<ssize_t>(devices.size()));
  {
    guest::Ram ram({guest::RamBlock{"a", {reinterpret_cast<std::uintptr_t>(at)}, kBytes, false, false, 0, -1, {}}}, {});
    LiveGuest live(std::move(ram), guest::Qmp(Fd::own(ends[1]), true), std::move(uffd), Fd::open("/proc/self/pagemap", O_RDONLY), true,
                   false);
    EXPECT_FALSE(live.gave_memory_back());
    const std::string events = R"({"event":"STOP"})"
                               "\n"
                               R"({"event":"BALLOON_CHANGE","data":{"actual":1}})"
                               "\n";
    ASSERT_EQ(::write(qemu.get(), events.data(), events.size()), static_cast<ssize_t>(events.size()));
    EXPECT_TRUE(live.gave_memory_back());
    EXPECT_FALSE(live.gave_memory_back());
  }
  ::munmap(at, kBytes);
}

}  // namespace
}  // namespace mhv::guest
