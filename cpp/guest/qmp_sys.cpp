#include "guest/qmp_sys.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace mhv::guest::sys {
namespace {

constexpr std::size_t kFdsMax = 16;

[[noreturn]] void throw_closed() {
  throw Error(Code::kGone, "QEMU's monitor closed: the guest's QEMU has ended, or its monitor was given to another");
}

bool peer_closed(int error) { return error == EPIPE || error == ECONNRESET || error == ENOTCONN; }

void wait_for(int socket, short events, Deadline deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd entry{socket, events, 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(std::clamp<long>(left, 0, 3'600'000)));
    if (ready > 0) return;
    if (ready < 0 && errno != EINTR) throw_errno("cannot wait for QEMU's monitor");
    if (ready == 0 && left <= 0)
      throw Error(Code::kUnavailable, "QEMU's monitor does not answer", "is the guest's storage reachable? QEMU waits for it");
  }
}

}  // namespace

void wait_readable(int socket, Deadline deadline) { wait_for(socket, POLLIN, deadline); }

void send_with_fds(int socket, std::string_view bytes, std::span<const int> fds, Deadline deadline) {
  if (fds.size() > kFdsMax) throw Error(Code::kInvalid, "too many descriptors for one QMP command");
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kFdsMax * sizeof(int))> control{};
  while (!bytes.empty()) {
    iovec part{const_cast<char*>(bytes.data()), bytes.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
      message.msg_control = control.data();
      message.msg_controllen = CMSG_SPACE(fds.size_bytes());
      cmsghdr* head = CMSG_FIRSTHDR(&message);
      head->cmsg_level = SOL_SOCKET;
      head->cmsg_type = SCM_RIGHTS;
      head->cmsg_len = CMSG_LEN(fds.size_bytes());
      std::memcpy(CMSG_DATA(head), fds.data(), fds.size_bytes());
    }
    const ssize_t n = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (peer_closed(errno)) throw_closed();
      if (errno != EAGAIN) throw_errno("cannot write to QEMU's monitor");
      wait_for(socket, POLLOUT, deadline);
      continue;
    }
    bytes.remove_prefix(static_cast<std::size_t>(n));
    fds = {};
  }
}

std::size_t receive_now(int socket, std::span<char> out) {
  for (;;) {
    const ssize_t n = ::recv(socket, out.data(), out.size(), MSG_DONTWAIT);
    if (n > 0) return static_cast<std::size_t>(n);
    if (n == 0 || peer_closed(errno)) throw_closed();
    if (errno == EAGAIN) return 0;
    if (errno != EINTR) throw_errno("cannot read from QEMU's monitor");
  }
}

}  // namespace mhv::guest::sys
