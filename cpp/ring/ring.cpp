#include "ring/ring.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "base/error.h"
#include "ring/ring_sys.h"

namespace mhv::ring {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

constexpr std::uint64_t kMagic = 0x31676e697276686d;  // "mhvring1"
constexpr std::size_t kLine = 64;
constexpr std::size_t kOpenTextsMax = 64;

struct Indices {
  alignas(kLine) std::atomic<std::uint64_t> produced;
  alignas(kLine) std::atomic<std::uint64_t> consumed;
  alignas(kLine) std::atomic<std::uint32_t> sleeps;
};
struct Head {
  std::uint64_t magic;
  std::uint32_t abi;
  std::uint32_t ring_bytes;
  Indices to_layer, to_engine;
};
static_assert(sizeof(Indices) == 3 * kLine && offsetof(Head, to_layer) == kLine && offsetof(Head, to_engine) == 4 * kLine);
static_assert(sizeof(Head) <= 4096 && std::atomic<std::uint64_t>::is_always_lock_free);

struct Record {
  std::uint32_t bytes = 0;
  std::uint16_t type = 0;
  std::uint16_t flags = 0;
  std::uint64_t id = 0;
};
static_assert(sizeof(Record) == 16 && kRingBytes % sizeof(Record) == 0 && (kRingBytes & (kRingBytes - 1)) == 0);

constexpr std::uint64_t whole(std::size_t payload) {
  return (sizeof(Record) + payload + sizeof(Record) - 1) / sizeof(Record) * sizeof(Record);
}
static_assert(whole(kPayloadMax) <= kRingBytes);

Error forged(const char* what) { return {Code::kCorrupt, std::string("the other side of a channel ") + what, "it is faulty or hostile"}; }

// One direction, as one side sees it. Positions count bytes for ever; `known_` is the peer's, as far as it was believed.
class Half {
 public:
  Half(Indices& indices, std::byte* ring) : indices_(indices), ring_(ring) {}

 protected:
  template <typename Byte, typename Copy>
  void pieces(std::uint64_t at, std::span<Byte> bytes, Copy copy) const {
    std::byte* const from = ring_ + (at & (kRingBytes - 1));
    const std::size_t first = std::min<std::size_t>(bytes.size(), kRingBytes - (at & (kRingBytes - 1)));
    copy(from, bytes.first(first));
    copy(ring_, bytes.subspan(first));
  }

  Indices& indices_;
  std::byte* const ring_;
  std::uint64_t mine_ = 0;
  std::uint64_t known_ = 0;
};

class Producer : public Half {
 public:
  using Half::Half;

  bool fits(std::uint64_t bytes) {
    if (kRingBytes - (mine_ - known_) >= bytes) return true;
    const std::uint64_t consumed = indices_.consumed.load(std::memory_order_acquire);
    if (mine_ - consumed > kRingBytes) throw forged("forged how much it consumed");
    known_ = consumed;
    return kRingBytes - (mine_ - known_) >= bytes;
  }

  // Of what fits. True: the consumer sleeps, and is to be woken.
  bool put(const Record& record, std::span<const std::byte> payload) {
    write(mine_, std::as_bytes(std::span(&record, 1)));
    write(mine_ + sizeof record, payload);
    mine_ += whole(payload.size());
    indices_.produced.store(mine_, std::memory_order_seq_cst);
    return indices_.sleeps.load(std::memory_order_seq_cst) != 0 && indices_.sleeps.exchange(0) != 0;
  }

 private:
  void write(std::uint64_t at, std::span<const std::byte> bytes) {
    pieces(at, bytes, [](std::byte* to, auto part) {
      if (!part.empty()) std::memcpy(to, part.data(), part.size());
    });
  }
};

class Consumer : public Half {
 public:
  using Half::Half;

  bool has() {
    if (known_ != mine_) return true;
    const std::uint64_t produced = indices_.produced.load(std::memory_order_seq_cst);
    if (produced - mine_ > kRingBytes || (produced - mine_) % sizeof(Record) != 0) throw forged("forged how much it produced");
    known_ = produced;
    return known_ != mine_;
  }

  bool take(Message& into) {
    if (!has()) return false;
    Record record;
    read(mine_, std::as_writable_bytes(std::span(&record, 1)));
    if (record.bytes > kPayloadMax) throw forged("sent a message that is too long");
    const std::uint64_t bytes = whole(record.bytes);
    if (bytes > known_ - mine_) throw forged("sent a message that is longer than what is there");
    into.type = static_cast<Type>(record.type);
    into.flags = record.flags;
    into.id = record.id;
    into.payload.resize(record.bytes);
    read(mine_ + sizeof record, into.payload);
    mine_ += bytes;
    indices_.consumed.store(mine_, std::memory_order_release);
    return true;
  }

  // False: something is there already.
  bool sleep() {
    indices_.sleeps.store(1, std::memory_order_seq_cst);
    if (!has()) return true;
    awake();
    return false;
  }
  void awake() { indices_.sleeps.store(0, std::memory_order_relaxed); }

 private:
  void read(std::uint64_t at, std::span<std::byte> bytes) const {
    pieces(at, bytes, [](const std::byte* from, auto part) {
      if (!part.empty()) std::memcpy(part.data(), from, part.size());
    });
  }
};

void take(Nap& nap, Clock::time_point deadline) {
  std::this_thread::sleep_until(std::min<Clock::time_point>(deadline, Clock::now() + nap.next()));
}

Head& head_of(const boost::interprocess::mapped_region& region) { return *static_cast<Head*>(region.get_address()); }

}  // namespace

void begin_channel(const Fd& memory) {
  const auto region = map_shared(memory, kChannelBytes);
  std::memset(region.get_address(), 0, 4096);
  Head& head = head_of(region);
  head.abi = kAbi;
  head.ring_bytes = kRingBytes;
  head.magic = kMagic;
}

NewChannel make_polled_channel() {
  NewChannel out;
  out.engine.memory = make_sealed_memory(kChannelFileBytes);
  begin_channel(out.engine.memory);
  out.layer.memory = out.engine.memory.duplicate();
  return out;
}

NewChannel make_channel() {
  NewChannel out = make_polled_channel();
  std::tie(out.engine.wakes_me, out.layer.wakes_me) = make_wakes();
  out.engine.wakes_peer = out.engine.wakes_me.duplicate();
  out.layer.wakes_peer = out.layer.wakes_me.duplicate();
  return out;
}

class Channel::Impl {
 public:
  Impl(Ends ends, Side side)
      : ends_(std::move(ends)),
        region_(map_shared(ends_.memory, kChannelBytes)),
        out_(side == Side::kEngine ? head().to_layer : head().to_engine, ring(side == Side::kEngine ? 0 : 1)),
        in_(side == Side::kEngine ? head().to_engine : head().to_layer, ring(side == Side::kEngine ? 1 : 0)) {
    if (side == Side::kEngine && !is_sealed(ends_.memory)) throw Error(Code::kCorrupt, "the memory of a channel is not sealed");
    if (head().magic != kMagic) throw Error(Code::kCorrupt, "that is not the memory of a channel");
    if (head().abi != kAbi || head().ring_bytes != kRingBytes) {
      throw Error(Code::kVersion, "the channel has ABI " + std::to_string(head().abi) + ", this program has " + std::to_string(kAbi),
                  "build the layer with the engine's SDK");
    }
    const bool engine = side == Side::kEngine;
    const Indices& out = engine ? head().to_layer : head().to_engine;
    const Indices& in = engine ? head().to_engine : head().to_layer;
    if (out.produced.load() != 0 || in.consumed.load() != 0) throw Error(Code::kCorrupt, "this channel was used before");
  }

  bool send(Type type, std::uint64_t id, std::span<const std::byte> payload, std::uint16_t flags) {
    if (payload.size() > kPayloadMax) throw Error(Code::kInvalid, "a message of " + std::to_string(payload.size()) + " bytes is too long");
    if (!out_.fits(whole(payload.size()))) return false;
    const Record record{static_cast<std::uint32_t>(payload.size()), static_cast<std::uint16_t>(type), flags, id};
    if (out_.put(record, payload) && ends_.wakes_peer) wake(ends_.wakes_peer);
    return true;
  }

  bool receive(Message& into) { return in_.take(into); }

  bool want_wake() {
    if (!ends_.wakes_me) return !in_.has();
    const bool there = take_wakes(ends_.wakes_me);
    if (!in_.sleep()) return false;
    if (!there) throw Error(Code::kGone, "the other side of a channel ended");
    return true;
  }

  // Something is there, or may be; or the deadline is over.
  void wait(Clock::time_point deadline, Nap& nap) {
    if (!ends_.wakes_me) return take(nap, deadline);
    if (!want_wake()) return;
    sleep_until(ends_.wakes_me, deadline);
    in_.awake();
  }

  int wake_fd() const { return ends_.wakes_me.get(); }

 private:
  Head& head() const { return head_of(region_); }
  std::byte* ring(std::size_t number) const { return static_cast<std::byte*>(region_.get_address()) + 4096 + number * kRingBytes; }

  const Ends ends_;
  const boost::interprocess::mapped_region region_;
  Producer out_;
  Consumer in_;
};

Channel::Channel(Ends ends, Side side) : impl_(std::make_unique<Impl>(std::move(ends), side)) {}
Channel::~Channel() = default;

bool Channel::send(Type type, std::uint64_t id, std::span<const std::byte> payload, std::uint16_t flags) {
  return impl_->send(type, id, payload, flags);
}

bool Channel::send_until(Clock::time_point deadline, Type type, std::uint64_t id, std::span<const std::byte> payload, std::uint16_t flags) {
  if (impl_->send(type, id, payload, flags)) return true;
  const Clock::time_point spin_until = Clock::now() + kSpin;
  Nap nap;
  do {
    const Clock::time_point now = Clock::now();
    if (now >= deadline) return false;
    if (now >= spin_until) take(nap, deadline);
  } while (!impl_->send(type, id, payload, flags));
  return true;
}

bool Channel::send_text(Clock::time_point deadline, Type type, std::uint64_t id, std::string_view text) {
  for (;;) {
    const std::string_view part = text.substr(0, kPayloadMax);
    text.remove_prefix(part.size());
    if (!send_until(deadline, type, id, std::as_bytes(std::span(part)), text.empty() ? 0 : kMore)) return false;
    if (text.empty()) return true;
  }
}

bool Channel::receive(Message& into) { return impl_->receive(into); }

std::optional<Message> Channel::receive() {
  std::optional<Message> out(std::in_place);
  if (!impl_->receive(*out)) out.reset();
  return out;
}

bool Channel::receive_until(Message& into, Clock::time_point deadline, microseconds spin) {
  const Clock::time_point spin_until = Clock::now() + spin;
  Nap nap;
  for (;;) {
    if (impl_->receive(into)) return true;
    const Clock::time_point now = Clock::now();
    if (now >= deadline) return false;
    if (now >= spin_until) impl_->wait(deadline, nap);
  }
}

std::optional<Message> Channel::receive_until(Clock::time_point deadline, microseconds spin) {
  std::optional<Message> out(std::in_place);
  if (!receive_until(*out, deadline, spin)) out.reset();
  return out;
}

int Channel::wake_fd() const { return impl_->wake_fd(); }
bool Channel::want_wake() { return impl_->want_wake(); }

std::optional<std::string> TextParts::add(const Message& message) {
  const std::string_view text(reinterpret_cast<const char*>(message.payload.data()), message.payload.size());
  const bool more = (message.flags & kMore) != 0;
  auto part = std::ranges::find_if(parts_, [&](const Part& p) { return p.type == message.type && p.id == message.id; });
  if (part == parts_.end()) {
    if (!more) return std::string(text);
    if (parts_.size() == kOpenTextsMax) throw Error(Code::kInvalid, "too many texts are under way at once");
    part = parts_.insert(parts_.end(), {message.type, message.id, {}});
  }
  if (bytes_ + text.size() > kTextMax) throw Error(Code::kInvalid, "a text is longer than " + std::to_string(kTextMax) + " bytes");
  part->text += text;
  bytes_ += text.size();
  if (more) return std::nullopt;
  std::string out = std::move(part->text);
  bytes_ -= out.size();
  parts_.erase(part);
  return out;
}

}  // namespace mhv::ring
