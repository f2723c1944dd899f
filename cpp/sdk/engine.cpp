#include "sdk/engine.h"

#include <algorithm>

#include "base/error.h"

namespace mhv::sdk {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kSendIn = std::chrono::seconds(10);
constexpr std::size_t kKeptMax = 4096;

Error unread() { return {Code::kUnavailable, "the engine does not read what this layer says"}; }

}  // namespace

ring::Message Engine::next() {
  if (!kept_.empty()) {
    ring::Message out = std::move(kept_.front());
    kept_.pop_front();
    return out;
  }
  return *channel_.receive_until(Clock::time_point::max());
}

bool Engine::read(introspection::GuestPhys at, std::span<std::byte> out) {
  for (; !out.empty(); out = out.subspan(std::min(out.size(), ring::kReadMax)), at = at + ring::kReadMax) {
    if (!read_part(at, out.first(std::min(out.size(), ring::kReadMax)))) return false;
  }
  return true;
}

bool Engine::read_part(introspection::GuestPhys at, std::span<std::byte> out) {
  const std::uint64_t id = next_read_++;
  const ring::Read wanted{at.value, out.size()};
  send(ring::Type::kRead, id, std::as_bytes(std::span(&wanted, 1)));
  for (;;) {
    channel_.receive_until(answer_, Clock::time_point::max());
    if (answer_.type != ring::Type::kBytes) {
      if (kept_.size() == kKeptMax) throw Error(Code::kUnavailable, "the engine does not answer a read");
      kept_.push_back(std::move(answer_));
    } else if (answer_.id == id) {
      if (answer_.payload.size() != out.size()) return false;
      std::ranges::copy(answer_.payload, out.begin());
      return true;
    }
  }
}

void Engine::send(ring::Type type, std::uint64_t id, std::span<const std::byte> payload) {
  if (!channel_.send_until(Clock::now() + kSendIn, type, id, payload)) throw unread();
}

void Engine::send_text(ring::Type type, std::uint64_t id, std::string_view text) {
  if (!channel_.send_text(Clock::now() + kSendIn, type, id, text)) throw unread();
}

}  // namespace mhv::sdk
