// The engine as a layer sees it: what comes from it in order, and what is said to it.
#pragma once

#include <chrono>
#include <deque>
#include <optional>
#include <string>
#include <string_view>

#include "introspection/memory.h"
#include "ring/ring.h"

namespace mhv::sdk {

// Makes a descriptor that this program was started with its own. Throws kInvalid: there is none.
Fd adopt_descriptor(int number);

// Not thread-safe.
class Engine {
 public:
  explicit Engine(ring::Ends ends) : channel_(std::move(ends), ring::Side::kLayer) {}

  // Waits. Throws kGone: the engine ended.
  ring::Message next();
  // The bytes of RAM there, asked of the engine; what else comes meanwhile is kept for next(). False: that is no RAM, or was not claimed.
  bool read(introspection::GuestPhys at, std::span<std::byte> out);
  // Throw kUnavailable: the engine does not read.
  void send(ring::Type type, std::uint64_t id, std::span<const std::byte> payload);
  void send_text(ring::Type type, std::uint64_t id, std::string_view text);

 private:
  bool read_part(introspection::GuestPhys at, std::span<std::byte> out);

  ring::Channel channel_;
  std::deque<ring::Message> kept_;
  ring::Message answer_;  // its memory is used again
  std::uint64_t next_read_ = 1;
};

}  // namespace mhv::sdk
