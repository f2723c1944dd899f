// Which packets a layer was shown and has not decided: what each of its verdicts is checked against.
//
// INVARIANT: a verdict that gets through is about a packet that the layer was shown, is one that its claim allows, and is the first about
// it, or the first after it said to hold it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "ring/abi.h"
#include "stack/claims.h"

namespace mhv::stack {

inline constexpr std::size_t kFrameMin = 14;              // an Ethernet header
inline constexpr std::size_t kFrameMax = 64 * 1024 + 54;  // that a guest's device may be given at once, with its Ethernet header and tags
inline constexpr std::size_t kPacketsOpenMax = 32'768;    // of one layer, those that it holds among them

// Names a packet to whoever shows it.
struct PacketToken {
  std::uint64_t path = 0, packet = 0;
  friend bool operator==(const PacketToken&, const PacketToken&) = default;
};

struct PacketVerdict {
  PacketToken about;
  ring::Decision decision{};
  std::vector<std::byte> frame;  // of Decision::kReplace
};

// Not thread-safe.
class PacketBook {
 public:
  using Clock = std::chrono::steady_clock;

  explicit PacketBook(NetworkClaim claim) : claim_(claim) {}

  // Its number in kPacket; nullopt: the layer has too many already.
  std::optional<std::uint64_t> add(const PacketToken& packet, Clock::time_point now);
  void take_back(std::uint64_t number);  // it could not be sent

  // A kVerdict's payload. nullopt: it was decided before. Throws kInvalid for what is none, kPermission for one that was not claimed.
  std::optional<PacketVerdict> settle(std::span<const std::byte> payload);

  // When the oldest one of those without an answer was shown; nullopt: all have one.
  std::optional<Clock::time_point> oldest() const;

 private:
  struct Shown {
    PacketToken packet;
    Clock::time_point at;
  };
  void check(const ring::Verdict& said, std::size_t frame) const;

  const NetworkClaim claim_;
  std::uint64_t next_ = 1;
  std::map<std::uint64_t, Shown> unanswered_;
  std::map<std::uint64_t, PacketToken> held_;
};

}  // namespace mhv::stack
