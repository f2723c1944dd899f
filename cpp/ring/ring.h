// Two rings in shared memory between the engine and a layer, one for each direction; each has one producer and one consumer.
//
//   +--------------------------+ 0
//   | magic, ABI, ring bytes   |
//   | ring 0: produced, consumed, sleeps      (engine -> layer), each in a cache line of its own
//   | ring 1: produced, consumed, sleeps      (layer -> engine)
//   +--------------------------+ 4096
//   | bytes of ring 0          |   a record: u32 payload bytes, u16 type, u16 flags, u64 id, payload, up to a multiple of 16
//   +--------------------------+
//   | bytes of ring 1          |
//   +--------------------------+
//
// `produced` and `consumed` count bytes for ever. Invariant: each side writes its own index only, keeps a private copy of it, and
// believes the other's only as far as 0 <= produced - consumed <= ring bytes; a record is copied out before anything in it is looked
// at. So the worst that a hostile peer can do is to end the channel (kCorrupt) or to say nonsense.
//
// Who finds nothing sets `sleeps` and looks once more before it sleeps; who produced clears it and wakes. Wakes are bytes in a socket
// pair: unlike those of an eventfd, neither end's flags are the other's, so no peer can make a wake block; and a peer that ended is
// noticed.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "ring/abi.h"

namespace mhv::ring {

inline constexpr std::uint32_t kRingBytes = 1 << 20;   // each; a power of two
inline constexpr std::chrono::microseconds kSpin{20};  // for so long one looks again and again before one sleeps
inline constexpr std::size_t kChannelBytes = 4096 + 2 * std::size_t{kRingBytes};
inline constexpr std::size_t kChannelFileBytes = 4 << 20;  // a power of two, as a PCI BAR is; the rest of it is never touched

struct Message {
  Type type{};
  std::uint16_t flags = 0;
  std::uint64_t id = 0;
  std::vector<std::byte> payload;
};

enum class Side { kEngine, kLayer };

// What one side is given: the memory, what wakes it, and what wakes the other. The latter two are one socket here.
struct Ends {
  Fd memory, wakes_me, wakes_peer;
};
// A new channel: the memory is sealed against a change of its size, so a peer cannot make an access to it fail.
struct NewChannel {
  Ends engine, layer;
};
NewChannel make_channel();
// One for a service VM: nothing wakes through a virtual machine's wall.
NewChannel make_polled_channel();
// Makes an empty channel of memory that is there, before anyone uses it.
void begin_channel(const Fd& memory);

// How long to sleep between two looks where nobody wakes: longer and longer.
class Nap {
 public:
  std::chrono::microseconds next() { return std::exchange(length_, std::min(2 * length_, kLongest)); }
  void begin_anew() { length_ = kShortest; }

 private:
  static constexpr std::chrono::microseconds kShortest{20}, kLongest{4000};
  std::chrono::microseconds length_ = kShortest;
};

// One side of a channel. Not thread-safe, but sending and receiving may be done by two threads.
class Channel {
 public:
  // Without what wakes, nobody is ever woken, and both sides poll. Throws kCorrupt: that is no channel, this side of it was used
  // before, or, on the engine's side, its size could change; kVersion: of another ABI.
  Channel(Ends ends, Side side);
  ~Channel();

  // False: it does not fit now. Throws kInvalid above kPayloadMax, kCorrupt: the peer forged its index.
  bool send(Type type, std::uint64_t id, std::span<const std::byte> payload, std::uint16_t flags = 0);
  // False: it did not fit until `deadline`.
  bool send_until(std::chrono::steady_clock::time_point deadline, Type type, std::uint64_t id, std::span<const std::byte> payload,
                  std::uint16_t flags = 0);
  // A text in as many parts as it takes. False: the rest of it will never come, so the channel is of no further use.
  bool send_text(std::chrono::steady_clock::time_point deadline, Type type, std::uint64_t id, std::string_view text);

  // nullopt: nothing is there. Throws kCorrupt.
  std::optional<Message> receive();
  // False: nothing is there. Into a message whose memory is used again.
  bool receive(Message& into);
  // nullopt: nothing came until `deadline`. Looks again and again for `spin` before it sleeps. Throws kGone: the peer ended, and
  // all that it had sent was received.
  std::optional<Message> receive_until(std::chrono::steady_clock::time_point deadline, std::chrono::microseconds spin = kSpin);
  bool receive_until(Message& into, std::chrono::steady_clock::time_point deadline, std::chrono::microseconds spin = kSpin);
  // To wait for together with other descriptors: want_wake() first, and when this is readable receive() until it has nothing; then
  // want_wake() again. -1: both sides poll.
  int wake_fd() const;
  // False: something is there already. Throws kGone, as receive_until().
  bool want_wake();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// Puts texts that came in parts together, of several types and ids at once. Throws kInvalid beyond kTextMax in all, or too many at once.
class TextParts {
 public:
  // The whole text, when this was its last part.
  std::optional<std::string> add(const Message& message);

 private:
  struct Part {
    Type type;
    std::uint64_t id;
    std::string text;
  };
  std::vector<Part> parts_;
  std::size_t bytes_ = 0;
};

}  // namespace mhv::ring
