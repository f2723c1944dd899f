// Bytes from a stranger on a socket: every frame either arrives whole or is an Error.
#include <sys/socket.h>

#include <array>
#include <cstdlib>

#include "base/error.h"
#include "base/frame.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size > 65536) return 0;  // fits the socket's buffer, so that one thread can play both sides
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  try {
    const mhv::FrameHeader header = mhv::parse_frame_header(bytes);
    if (header.fds > mhv::kFrameFdsMax || header.payload_bytes > mhv::kFramePayloadMax) std::abort();
  } catch (const mhv::Error&) {
  }
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) std::abort();
  mhv::Fd writer = mhv::Fd::own(ends[0]);
  const mhv::Fd reader = mhv::Fd::own(ends[1]);
  mhv::write_all(writer.get(), bytes, "frames");
  writer.close();
  try {
    std::size_t taken = 0;
    while (const std::optional<mhv::Frame> frame = mhv::receive_frame(reader.get())) {
      taken += mhv::kFrameHeaderBytes + frame->payload.size();
      if (!frame->fds.empty()) std::abort();
    }
    if (taken != size) std::abort();
  } catch (const mhv::Error&) {
  }
  return 0;
}
