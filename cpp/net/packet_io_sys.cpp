#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cstdint>

#include "base/error.h"
#include "net/packet_io.h"

namespace mhv::net {

Received receive_packet(int tap, std::span<std::byte> buffer) {
  for (;;) {
    const ssize_t n = ::read(tap, buffer.data(), buffer.size());
    if (n > 0) return {static_cast<std::size_t>(n), false};
    if (n < 0 && errno == EINTR) continue;
    // EBADFD: detached from a tap that was removed. 0: a test's socket was closed.
    return {0, n == 0 || (errno != EAGAIN && errno != EIO)};
  }
}

bool send_packet(int tap, std::span<const std::byte> packet) {
  for (;;) {
    const ssize_t n = ::write(tap, packet.data(), packet.size());
    if (n >= 0 || errno != EINTR) return n >= 0;
  }
}

Fd make_wake() {
  Fd fd = Fd::own(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) throw_errno("cannot create an eventfd");
  return fd;
}

void wake(int wake) {
  const std::uint64_t one = 1;
  while (::write(wake, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

void wait_for_either(int tap, int wake, std::optional<std::chrono::steady_clock::time_point> until) {
  timespec left{};
  if (until) {
    const auto ns = std::chrono::nanoseconds(*until - std::chrono::steady_clock::now()).count();
    if (ns > 0) left = {ns / 1'000'000'000, ns % 1'000'000'000};
  }
  std::array<pollfd, 2> poll_for{pollfd{tap, POLLIN, 0}, pollfd{wake, POLLIN, 0}};
  if (::ppoll(poll_for.data(), poll_for.size(), until ? &left : nullptr, nullptr) <= 0) return;
  std::uint64_t times = 0;
  if (poll_for[1].revents != 0 && ::read(wake, &times, sizeof times) < 0 && errno != EAGAIN) throw_errno("cannot read an eventfd");
}

}  // namespace mhv::net
