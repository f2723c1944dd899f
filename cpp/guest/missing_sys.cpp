#include "guest/missing_sys.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>

#include "base/error.h"
#include "guest/uffd_abi.h"

namespace mhv::guest::sys {
namespace {

constexpr int kCopiesMax = 1000;

bool set_mode(int uffd, HostVirt start, std::uint64_t bytes, std::uint64_t mode) {
  abi::UffdRegister request{{start.value, bytes}, mode, 0};
  return ioctl_again(uffd, abi::kIoctlRegister, &request) == 0;
}

}  // namespace

void uffd_register_missing(int uffd, HostVirt start, std::uint64_t bytes) {
  if (!set_mode(uffd, start, bytes, abi::kRegisterModeMissing | abi::kRegisterModeWp)) throw_uffd("cannot hold back missing pages");
}

bool uffd_end_missing(int uffd, HostVirt start, std::uint64_t bytes, bool shared) {
  const bool kept = shared && set_mode(uffd, start, bytes, abi::kRegisterModeMinor);
  if (!kept) uffd_unregister(uffd, start, bytes);
  if (!set_mode(uffd, start, bytes, abi::kRegisterModeWp)) throw_uffd("cannot go on tracking the guest's memory");
  uffd_wake(uffd, start, bytes);
  return kept;
}

Filled uffd_copy(int uffd, HostVirt to, std::span<const std::byte> from, bool clean, std::uint64_t* bytes) {
  *bytes = 0;
  for (int i = 0; i < kCopiesMax; ++i) {
    abi::UffdCopy request{to.value + *bytes, reinterpret_cast<std::uintptr_t>(from.data()) + *bytes, from.size() - *bytes,
                          clean ? abi::kCopyModeWp : 0, 0};
    if (::ioctl(uffd, abi::kIoctlCopy, &request) == 0) {
      *bytes = from.size();
      return Filled::kDone;
    }
    const int error = errno;
    if (request.copy > 0) *bytes += static_cast<std::uint64_t>(request.copy);
    if (error == EEXIST) {
      if (*bytes > 0) return Filled::kDone;
      uffd_wake(uffd, to, kPageSize);  // a failed copy wakes nobody
      return Filled::kThere;
    }
    if (error == ENOENT) return Filled::kThere;  // its device was unplugged: there is nothing to fill any more
    if (*bytes == from.size()) return Filled::kDone;
    if (error != EAGAIN && error != EINTR) {
      errno = error;
      throw_uffd("cannot fill the guest's memory");
    }
  }
  throw Error(Code::kUnavailable, "QEMU's mappings do not come to rest", "try again");
}

void uffd_wake(int uffd, HostVirt start, std::uint64_t bytes) {
  abi::UffdRange range{start.value, bytes};
  if (ioctl_again(uffd, abi::kIoctlWake, &range) != 0 && errno != ESRCH) throw_uffd("cannot wake the guest's accesses");
}

void uffd_read_faults(int uffd, std::vector<HostVirt>& out) {
  std::array<abi::UffdMessage, 64> messages;
  ssize_t n;
  do {
    n = ::read(uffd, messages.data(), sizeof(messages));
  } while (n < 0 && errno == EINTR);
  if (n < 0 && errno == EAGAIN) return;
  if (n < 0) throw_uffd("cannot read the guest's page faults");
  for (std::size_t i = 0; i < static_cast<std::size_t>(n) / sizeof(abi::UffdMessage); ++i) {
    if (messages[i].event == abi::kEventPagefault) out.push_back({messages[i].fault_address & ~(std::uint64_t{kPageSize} - 1)});
  }
}

void wait_for_fault(int uffd, int wake_fd, int timeout_ms) {
  std::array<pollfd, 2> polled{pollfd{uffd, POLLIN, 0}, pollfd{wake_fd, POLLIN, 0}};
  if (::poll(polled.data(), polled.size(), timeout_ms) < 0 && errno != EINTR) throw_errno("cannot wait for page faults");
}

std::vector<FileRange> data_of(int file, std::uint64_t offset, std::uint64_t bytes) {
  std::vector<FileRange> found;
  const std::uint64_t end = offset + bytes;
  for (std::uint64_t at = offset; at < end;) {
    const off_t data = ::lseek(file, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    if (data < 0) throw_errno("cannot look for data in the guest's memory");
    if (static_cast<std::uint64_t>(data) >= end) break;
    const off_t hole = ::lseek(file, data, SEEK_HOLE);
    if (hole < 0) throw_errno("cannot look for holes in the guest's memory");
    at = std::min(end, static_cast<std::uint64_t>(hole));
    found.push_back({static_cast<std::uint64_t>(data), at - static_cast<std::uint64_t>(data)});
  }
  return found;
}

void punch(int file, std::uint64_t offset, std::uint64_t bytes) {
  if (::fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(bytes)) != 0)
    throw_errno("cannot give back the guest's unused memory");
}

}  // namespace mhv::guest::sys
