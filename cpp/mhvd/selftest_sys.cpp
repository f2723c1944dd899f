// The system calls of the self-test, on a mapping of this process.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <vector>

#include "base/error.h"
#include "guest/ram.h"
#include "guest/tracker.h"
#include "mhvd/selftest.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#endif

namespace mhv::mhvd {
namespace {

constexpr std::size_t kPages = 16;
constexpr const char* kKernelHint =
    "written-page tracking needs Linux 6.7 or later with userfaultfd (CONFIG_USERFAULTFD, WP_ASYNC) and PAGEMAP_SCAN";

struct Mapping {
  explicit Mapping(const Fd& file) : at(::mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0)) {
    if (at == MAP_FAILED) throw_errno("cannot map memory");
  }
  ~Mapping() { ::munmap(at, kPages * kPageSize); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  void touch(std::size_t page) { static_cast<volatile char*>(at)[page * kPageSize] = 1; }
  void* at;
};

}  // namespace

void test_tracking(const Fd& userfaultfd_device) {
  Fd file = Fd::memory("mhv-self-test");
  if (::ftruncate(file.get(), kPages * kPageSize) != 0) throw_errno("cannot size a memfd");
  Mapping mapping(file);
  for (std::size_t page = 0; page < kPages; ++page) mapping.touch(page);
  Fd uffd = Fd::own(::ioctl(userfaultfd_device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
  if (!uffd) throw Error(Code::kUnsupported, "/dev/userfaultfd gives no userfaultfd", kKernelHint);

  guest::RamBlock block;
  block.name = "self-test";
  block.host = HostVirt{reinterpret_cast<std::uint64_t>(mapping.at)};
  block.bytes = kPages * kPageSize;
  block.shared = true;
  block.fd = file.get();
  std::vector<Fd> fds;
  fds.push_back(std::move(file));
  const guest::Ram ram({block}, std::move(fds));
  try {
    guest::Tracker tracker(std::move(uffd), Fd::open("/proc/self/pagemap", O_RDONLY), ram, true, false);
    tracker.reset();
    mapping.touch(3);
    const std::vector<PageRange> written = tracker.collect();
    const bool right = written.size() == 1 && written[0] == PageRange{PageNo{3}, 1};
    tracker.detach();
    if (!right) throw Error(Code::kUnsupported, "the kernel does not report a written page", kKernelHint);
  } catch (const Error& error) {
    throw Error(Code::kUnsupported, error.what(), error.hint().empty() ? kKernelHint : error.hint());
  }
}

void test_sandbox() {
  constexpr unsigned kVersionFlag = 1;  // LANDLOCK_CREATE_RULESET_VERSION
  if (::syscall(SYS_landlock_create_ruleset, nullptr, 0, kVersionFlag) < 1) {
    throw Error(Code::kUnsupported, "this kernel has no Landlock",
                "boot with lsm=landlock,... (CONFIG_SECURITY_LANDLOCK): workers are confined by it");
  }
  if (::prctl(PR_GET_SECCOMP) < 0)
    throw Error(Code::kUnsupported, "this kernel has no seccomp", "use a kernel with CONFIG_SECCOMP_FILTER: workers are confined by it");
}

}  // namespace mhv::mhvd
