// Socket calls of a QMP connection.
#pragma once

#include <chrono>
#include <span>
#include <string_view>

namespace mhv::guest::sys {

using Deadline = std::chrono::steady_clock::time_point;

// Throws kUnavailable when the deadline passes first.
void wait_readable(int socket, Deadline deadline);
// All of `bytes`, `fds` with the first of them. kGone when the peer closed.
void send_with_fds(int socket, std::string_view bytes, std::span<const int> fds, Deadline deadline);
// What is there, without waiting: 0 when nothing is. kGone when the peer closed.
std::size_t receive_now(int socket, std::span<char> out);

}  // namespace mhv::guest::sys
