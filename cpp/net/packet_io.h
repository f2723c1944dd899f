// One packet in, one packet out, of a non-blocking tap; and what its thread sleeps on.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>

#include "base/fd.h"

namespace mhv::net {

struct Received {
  std::size_t bytes = 0;  // 0: nothing has come
  bool ended = false;     // nothing will: the tap was removed
};

Received receive_packet(int tap, std::span<std::byte> buffer);
// False: the kernel takes no such packet, or not now.
bool send_packet(int tap, std::span<const std::byte> packet);

Fd make_wake();
void wake(int wake);
// Returns when one of them can be read (`wake` is read), or at `until`.
void wait_for_either(int tap, int wake, std::optional<std::chrono::steady_clock::time_point> until);

}  // namespace mhv::net
