#include "stack/packet_book.h"

#include <fmt/format.h>

#include <cstring>

#include "base/error.h"

namespace mhv::stack {

std::optional<std::uint64_t> PacketBook::add(const PacketToken& packet, Clock::time_point now) {
  if (unanswered_.size() + held_.size() >= kPacketsOpenMax) return std::nullopt;
  unanswered_[next_] = {packet, now};
  return next_++;
}

void PacketBook::take_back(std::uint64_t number) { unanswered_.erase(number); }

void PacketBook::check(const ring::Verdict& said, std::size_t frame) const {
  if (said.number == 0 || said.number >= next_) throw Error(Code::kInvalid, "it decides about a packet that it was not shown");
  const auto needs = [&](NetworkClaim least, const char* what) {
    if (claim_ >= least) return;
    throw Error(Code::kPermission, fmt::format("it {} a packet, and its manifest claims no more than network {}", what, name_of(claim_)));
  };
  bool whole = said.bytes == 0 && frame == 0;
  switch (static_cast<ring::Decision>(said.decision)) {
    case ring::Decision::kPass: break;
    case ring::Decision::kHold: needs(NetworkClaim::kHold, "holds"); break;
    case ring::Decision::kDrop: needs(NetworkClaim::kDrop, "drops"); break;
    case ring::Decision::kReplace:
      needs(NetworkClaim::kDrop, "replaces");
      whole = said.bytes == frame && frame >= kFrameMin && frame <= kFrameMax;
      break;
    default: throw Error(Code::kInvalid, "its verdict is none that there is");
  }
  if (!whole) throw Error(Code::kInvalid, fmt::format("its verdict comes with {} bytes that are no frame", frame));
}

std::optional<PacketVerdict> PacketBook::settle(std::span<const std::byte> payload) {
  ring::Verdict said;
  if (payload.size() < sizeof said) throw Error(Code::kInvalid, "a verdict is too short");
  std::memcpy(&said, payload.data(), sizeof said);
  const std::span<const std::byte> frame = payload.subspan(sizeof said);
  check(said, frame.size());
  PacketVerdict out{{}, static_cast<ring::Decision>(said.decision), {frame.begin(), frame.end()}};
  if (const auto shown = unanswered_.find(said.number); shown != unanswered_.end()) {
    out.about = shown->second.packet;
    if (out.decision == ring::Decision::kHold) held_[said.number] = out.about;
    unanswered_.erase(shown);
    return out;
  }
  const auto held = held_.find(said.number);
  if (held == held_.end() || out.decision == ring::Decision::kHold) return std::nullopt;
  if (out.decision == ring::Decision::kReplace) throw Error(Code::kInvalid, "it replaces a packet that others have seen while it held it");
  out.about = held->second;
  held_.erase(held);
  return out;
}

std::optional<PacketBook::Clock::time_point> PacketBook::oldest() const {
  if (unanswered_.empty()) return std::nullopt;
  return unanswered_.begin()->second.at;
}

}  // namespace mhv::stack
