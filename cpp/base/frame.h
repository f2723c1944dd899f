// Framed messages over unix stream sockets, with descriptors beside them.
//
//   offset 0  u32  magic "MHV1" (little endian, like all numbers here)
//          4  u16  protocol version (kFrameVersion)
//          6  u16  number of descriptors that travel with the first byte (<= kFrameFdsMax)
//          8  u32  payload length (<= kFramePayloadMax)
//         12       payload: one protobuf message (protocol/mhv.proto)
//
// Whatever arrives is untrusted: a wrong magic, version, length or descriptor count is an Error, and the
// connection is of no further use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"

namespace mhv {

inline constexpr std::uint32_t kFrameMagic = 0x3156484d;  // "MHV1"
inline constexpr std::uint16_t kFrameVersion = 1;
inline constexpr std::size_t kFrameHeaderBytes = 12;
inline constexpr std::size_t kFramePayloadMax = 4u << 20;
inline constexpr std::size_t kFrameFdsMax = 64;

struct FrameHeader {
  std::uint16_t fds = 0;
  std::uint32_t payload_bytes = 0;
};

// Checks and takes apart the first kFrameHeaderBytes of a frame. Pure: the fuzz target calls it.
FrameHeader parse_frame_header(std::span<const std::byte> bytes);

struct Frame {
  std::string payload;
  std::vector<Fd> fds;
};

// Blocking. One writer and one reader at a time per socket (callers lock). Both throw kUnavailable when the peer ended.
void send_frame(int socket, std::string_view payload, std::span<const int> fds = {});
// nullopt: the peer closed between two frames and had read all. Throws Error on anything else that is not a whole frame.
std::optional<Frame> receive_frame(int socket);

}  // namespace mhv
