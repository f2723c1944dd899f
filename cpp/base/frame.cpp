#include "base/frame.h"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace mhv {
namespace {

template <typename T>
T load(std::span<const std::byte> bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// Reads `out.size()` bytes; false when the peer closed before the first. Descriptors that arrive are appended to `fds`.
bool receive_exact(int socket, std::span<std::byte> out, std::vector<Fd>* fds) {
  bool any = false;
  while (!out.empty()) {
    iovec part{out.data(), out.size()};
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(kFrameFdsMax * sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t n = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (n < 0) {
      if (errno == EINTR) continue;
      // A peer that ended before it read what was sent to it.
      if (errno == ECONNRESET) throw Error(Code::kUnavailable, "the peer closed the connection");
      throw_errno("cannot receive a message");
    }
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
      if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
      const std::size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t i = 0; i < count; ++i) {
        int number;
        std::memcpy(&number, CMSG_DATA(c) + i * sizeof(int), sizeof number);
        Fd received = Fd::own(number);
        if (fds != nullptr) fds->push_back(std::move(received));
      }
    }
    // Every byte of a message may bring more of them: they are counted while they come.
    const bool too_many = fds != nullptr && fds->size() > kFrameFdsMax;
    if (too_many || (message.msg_flags & MSG_CTRUNC) != 0) throw Error(Code::kInvalid, "more descriptors than a message may carry");
    if (n == 0) {
      if (!any) return false;
      throw Error(Code::kUnavailable, "the peer closed in the middle of a message");
    }
    any = true;
    out = out.subspan(static_cast<std::size_t>(n));
  }
  return true;
}

}  // namespace

FrameHeader parse_frame_header(std::span<const std::byte> bytes) {
  if (bytes.size() < kFrameHeaderBytes) throw Error(Code::kInvalid, "message header is cut short");
  if (load<std::uint32_t>(bytes, 0) != kFrameMagic) throw Error(Code::kInvalid, "not a nova-mhv message (wrong magic)");
  const auto version = load<std::uint16_t>(bytes, 4);
  if (version != kFrameVersion) {
    throw Error(Code::kVersion, "protocol version " + std::to_string(version) + ", this side speaks " + std::to_string(kFrameVersion),
                "run the same release of nova-mhv on both sides");
  }
  FrameHeader header;
  header.fds = load<std::uint16_t>(bytes, 6);
  header.payload_bytes = load<std::uint32_t>(bytes, 8);
  if (header.fds > kFrameFdsMax) throw Error(Code::kInvalid, "message announces " + std::to_string(header.fds) + " descriptors");
  if (header.payload_bytes > kFramePayloadMax) {
    throw Error(Code::kInvalid,
                "message announces " + std::to_string(header.payload_bytes) + " bytes, the limit is " + std::to_string(kFramePayloadMax));
  }
  return header;
}

void send_frame(int socket, std::string_view payload, std::span<const int> fds) {
  if (payload.size() > kFramePayloadMax)
    throw Error(Code::kInvalid, "message is longer than " + std::to_string(kFramePayloadMax) + " bytes");
  if (fds.size() > kFrameFdsMax) throw Error(Code::kInvalid, "message carries more than " + std::to_string(kFrameFdsMax) + " descriptors");
  std::array<std::byte, kFrameHeaderBytes> header{};
  const auto count = static_cast<std::uint16_t>(fds.size());
  const auto bytes = static_cast<std::uint32_t>(payload.size());
  std::memcpy(header.data(), &kFrameMagic, 4);
  std::memcpy(header.data() + 4, &kFrameVersion, 2);
  std::memcpy(header.data() + 6, &count, 2);
  std::memcpy(header.data() + 8, &bytes, 4);

  std::array<iovec, 2> parts{iovec{header.data(), header.size()}, iovec{const_cast<char*>(payload.data()), payload.size()}};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(kFrameFdsMax * sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
  }
  std::size_t left = header.size() + payload.size();
  while (left > 0) {
    const ssize_t n = ::sendmsg(socket, &message, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno == EPIPE || errno == ECONNRESET) throw Error(Code::kUnavailable, "the peer closed the connection");
      throw_errno("cannot send a message");
    }
    left -= static_cast<std::size_t>(n);
    message.msg_control = nullptr;  // descriptors went with the first byte
    message.msg_controllen = 0;
    auto sent = static_cast<std::size_t>(n);
    while (sent > 0 && message.msg_iovlen > 0) {
      const std::size_t step = std::min(sent, message.msg_iov->iov_len);
      message.msg_iov->iov_base = static_cast<char*>(message.msg_iov->iov_base) + step;
      message.msg_iov->iov_len -= step;
      sent -= step;
      if (message.msg_iov->iov_len == 0) {
        ++message.msg_iov;
        --message.msg_iovlen;
      }
    }
  }
}

std::optional<Frame> receive_frame(int socket) {
  std::array<std::byte, kFrameHeaderBytes> bytes{};
  Frame frame;
  if (!receive_exact(socket, bytes, &frame.fds)) return std::nullopt;
  const FrameHeader header = parse_frame_header(bytes);
  frame.payload.resize(header.payload_bytes);
  if (header.payload_bytes > 0 && !receive_exact(socket, std::as_writable_bytes(std::span(frame.payload)), &frame.fds)) {
    throw Error(Code::kUnavailable, "the peer closed in the middle of a message");
  }
  if (frame.fds.size() != header.fds) {
    throw Error(Code::kInvalid,
                "message announced " + std::to_string(header.fds) + " descriptors and brought " + std::to_string(frame.fds.size()));
  }
  return frame;
}

}  // namespace mhv
