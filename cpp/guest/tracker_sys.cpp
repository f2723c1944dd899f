#include "guest/tracker_sys.h"

#include <sys/ioctl.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>

#include "base/error.h"
#include "guest/uffd_abi.h"

namespace mhv::guest::sys {
namespace {

constexpr const char* kKernelHint = "tracking written pages needs Linux 6.7 or later with CONFIG_USERFAULTFD and CONFIG_PTE_MARKER_UFFD_WP";
constexpr std::uint64_t kFeatures =
    abi::kFeaturePagefaultFlagWp | abi::kFeatureWpHugetlbfsShmem | abi::kFeatureWpUnpopulated | abi::kFeatureWpAsync;
constexpr int kRetriesMax = 1000;
constexpr std::size_t kRegionsPerScan = 2048;

}  // namespace

int ioctl_again(int fd, unsigned long request, void* argument) {
  int result = -1;
  for (int i = 0; i < kRetriesMax; ++i) {
    result = ::ioctl(fd, request, argument);
    if (result >= 0 || (errno != EINTR && errno != EAGAIN)) break;
  }
  return result;
}

void throw_uffd(const char* what) {
  if (errno == ESRCH) throw Error(Code::kGone, std::string(what) + ": the guest's QEMU has ended");
  if (errno == ENOMEM) throw Error(Code::kNoSpace, std::string(what) + ": the host is out of memory", "free some memory");
  throw_errno(what);
}

void uffd_handshake(int uffd) {
  abi::UffdApi api{abi::kUffdApi, kFeatures, 0};
  if (ioctl_again(uffd, abi::kIoctlApi, &api) == 0) return;
  // EINVAL: the kernel lacks a feature, or the handshake was made before. Registering tells them apart.
  if (errno != EINVAL) throw_uffd("cannot set up the guest's userfaultfd");
}

void uffd_register(int uffd, HostVirt start, std::uint64_t bytes) {
  abi::UffdRegister request{{start.value, bytes}, abi::kRegisterModeWp, 0};
  if (ioctl_again(uffd, abi::kIoctlRegister, &request) == 0) return;
  if (errno == EBUSY) {
    throw Error(Code::kBusy, "another userfaultfd tracks this guest's memory",
                "detach it: end its background snapshot or post-copy migration");
  }
  if (errno == EINVAL) {
    throw Error(Code::kUnsupported, "this kernel's userfaultfd cannot write-protect the guest's memory asynchronously", kKernelHint);
  }
  throw_uffd("cannot register the guest's memory");
}

void uffd_unregister(int uffd, HostVirt start, std::uint64_t bytes) {
  abi::UffdRange range{start.value, bytes};
  if (ioctl_again(uffd, abi::kIoctlUnregister, &range) == 0 || errno == EINVAL || errno == ENOMEM || errno == ESRCH) return;
  throw_uffd("cannot unregister the guest's memory");
}

void uffd_protect(int uffd, HostVirt start, std::uint64_t bytes) {
  abi::UffdWriteprotect request{{start.value, bytes}, abi::kWriteprotectModeWp};
  if (ioctl_again(uffd, abi::kIoctlWriteprotect, &request) != 0) throw_uffd("cannot write-protect the guest's memory");
}

// Where all was touched, kNotProtected is the kernel's fast path; kWritten takes about twice, kPresent eight times as long. Of
// what was never touched, kNotProtected costs the most and the others next to nothing (Linux 6.18).
void pagemap_scan(int pagemap, HostVirt start, std::uint64_t bytes, Select select, bool protect, std::vector<Region>& out) {
  std::array<abi::PageRegion, kRegionsPerScan> found;
  abi::ScanArg arg{};
  arg.size = sizeof(arg);
  arg.flags = abi::kScanCheckWpAsync | (protect ? abi::kScanWpMatching : 0);
  arg.start = start.value;
  arg.end = start.value + bytes;
  arg.vec = reinterpret_cast<std::uintptr_t>(found.data());
  arg.vec_len = found.size();
  constexpr std::uint64_t kEntry = abi::kPagePresent | abi::kPageSwapped;
  switch (select) {
    case Select::kWritten: arg.category_anyof_mask = kEntry; [[fallthrough]];
    case Select::kNotProtected: arg.category_mask = arg.return_mask = abi::kPageWritten; break;
    case Select::kPresent: arg.category_mask = arg.return_mask = abi::kPagePresent; break;
    case Select::kPresentOrSwapped: arg.category_anyof_mask = arg.return_mask = kEntry; break;
  }
  while (arg.start < arg.end) {
    const int count = ioctl_again(pagemap, abi::kIoctlPagemapScan, &arg);
    if (count < 0) {
      if (errno == EPERM) {
        throw Error(Code::kUnsupported, "part of the guest's memory is not under tracking any more",
                    "detach the guest and attach it again");
      }
      if (errno == ENOTTY) throw Error(Code::kUnsupported, "this kernel has no PAGEMAP_SCAN", kKernelHint);
      throw_uffd("cannot scan the guest's memory");
    }
    for (int i = 0; i < count; ++i) {
      const auto& r = found[static_cast<std::size_t>(i)];
      out.push_back({{r.start}, r.end - r.start});
    }
    if (arg.walk_end <= arg.start) throw Error(Code::kInternal, "the scan of the guest's memory does not advance");
    arg.start = arg.walk_end;
  }
}

bool host_swaps() {
  struct sysinfo info {};
  return ::sysinfo(&info) != 0 || info.totalswap > 0;
}

// The file keeps the address space's shell alive: a scan of a process that ended finds nothing and says so to nobody.
// Reading it is answered with end of file, though.
bool pagemap_alive(int pagemap, HostVirt any) {
  std::uint64_t entry = 0;
  ssize_t n;
  do {
    n = ::pread(pagemap, &entry, sizeof(entry), static_cast<off_t>((any.value >> kPageShift) * sizeof(entry)));
  } while (n < 0 && errno == EINTR);
  if (n < 0 && errno != ESRCH) throw_errno("cannot read the guest's page map");
  return n == sizeof(entry);
}

}  // namespace mhv::guest::sys
