#include "ring/ring_sys.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/error.h"

namespace mhv::ring {
namespace {

namespace ipc = boost::interprocess;

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

// What Boost maps: here a descriptor, whatever it is of.
class Mappable {
 public:
  explicit Mappable(int file) : handle_{file, false} {}
  ipc::mapping_handle_t get_mapping_handle() const { return handle_; }
  ipc::mode_t get_mode() const { return ipc::read_write; }

 private:
  ipc::mapping_handle_t handle_;
};

}  // namespace

Fd make_sealed_memory(std::size_t bytes) {
  Fd memory = Fd::own(::memfd_create("nova-mhv channel", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory || ::ftruncate(memory.get(), static_cast<off_t>(bytes)) != 0 || ::fcntl(memory.get(), F_ADD_SEALS, kSeals) != 0) {
    throw_errno("cannot make the memory of a channel");
  }
  return memory;
}

bool is_sealed(const Fd& memory) {
  const int seals = ::fcntl(memory.get(), F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_SHRINK) != 0;
}

ipc::mapped_region map_shared(const Fd& memory, std::size_t bytes) {
  struct stat status {};
  if (::fstat(memory.get(), &status) != 0) throw_errno("cannot look at the memory of a channel");
  if (status.st_size < 0 || static_cast<std::size_t>(status.st_size) < bytes) {
    throw Error(Code::kCorrupt, "the memory of a channel is too small");
  }
  try {
    return {Mappable(memory.get()), ipc::read_write, 0, bytes};
  } catch (const ipc::interprocess_exception& error) {
    throw_errno("cannot map the memory of a channel", error.get_native_error());
  }
}

std::pair<Fd, Fd> make_wakes() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) != 0) throw_errno("cannot make a socket pair");
  return {Fd::own(ends[0]), Fd::own(ends[1])};
}

void wake(const Fd& peer) {
  const char byte = 0;
  // When it is full, the peer has wakes to take; when the peer ended, take_wakes() says so.
  static_cast<void>(::send(peer.get(), &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL));
}

bool take_wakes(const Fd& mine) {
  std::array<char, 256> bytes;
  const ssize_t n = ::recv(mine.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
  return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

void sleep_until(const Fd& mine, std::chrono::steady_clock::time_point deadline) {
  using std::chrono::nanoseconds;
  const auto left = std::clamp<nanoseconds>(deadline - std::chrono::steady_clock::now(), nanoseconds(0), std::chrono::hours(1));
  const timespec timeout{left.count() / 1'000'000'000, left.count() % 1'000'000'000};
  pollfd polled{mine.get(), POLLIN, 0};
  if (::ppoll(&polled, 1, &timeout, nullptr) < 0 && errno != EINTR) throw_errno("cannot wait at a channel");
}

}  // namespace mhv::ring
