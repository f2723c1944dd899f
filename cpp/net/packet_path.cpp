#include "net/packet_path.h"

#include <algorithm>

#include "base/error.h"
#include "net/packet_io.h"

namespace mhv::net {
namespace {

constexpr std::size_t kTurn = 64;         // packets taken in before others get the lock
constexpr std::size_t kMarkMax = 16'384;  // more than a tap of the engine queues (tap_swap.cpp)

}  // namespace

PacketPath::PacketPath(Fd tap, PathLimits limits) : tap_(std::move(tap)), wake_(make_wake()), limits_(limits), buffer_(kPacketMax) {}

void PacketPath::start() {
  thread_ = std::thread([this] { serve(); });
}

PacketPath::~PacketPath() {
  {
    const auto lock = enter();
    stop_ = true;
  }
  wake(wake_.get());
  if (thread_.joinable()) thread_.join();
}

std::unique_lock<std::mutex> PacketPath::enter() const {
  const std::lock_guard waiting(gate_);
  return std::unique_lock(mutex_);
}

void PacketPath::serve() {
  auto lock = enter();
  while (!stop_ && !counters_.ended) {
    expire(Clock::now());
    if (take_in(kTurn)) {
      lock.unlock();
      lock = enter();
      continue;
    }
    const std::optional<Clock::time_point> until = next_deadline();
    sleeping_until_ = until.value_or(Clock::time_point::max());
    lock.unlock();
    wait_for_either(tap_.get(), wake_.get(), until);
    lock = enter();
    sleeping_until_ = Clock::time_point::min();
  }
}

// False: there is no more.
bool PacketPath::take_in(std::size_t packets_max) {
  for (std::size_t i = 0; i < packets_max; ++i) {
    const Received received = receive_packet(tap_.get(), buffer_);
    if (received.ended) counters_.ended = true;
    if (received.bytes == 0) return false;
    take(std::span(buffer_).first(received.bytes));
  }
  return true;
}

void PacketPath::take(std::span<const std::byte> bytes) {
  ++counters_.in;
  counters_.in_bytes += bytes.size();
  if (queue_.size() >= limits_.packets || queued_bytes_ + bytes.size() > limits_.bytes) {
    ++counters_.overflow;
    return;
  }
  Packet packet;
  packet.bytes = bytes;
  const PacketNo number = number_of(queue_.size());
  advance(packet, number, queue_.empty() ? filters_.size() : queue_.back().stage);
  if (queue_.empty() && (packet.dropped || (packet.stage == filters_.size() && packet.held_by == 0))) {
    if (!packet.dropped) write_out(packet.bytes);
    ++first_.value;
    return;
  }
  if (packet.own.empty() && !packet.dropped) {
    packet.own.assign(bytes.begin(), bytes.end());
    packet.bytes = packet.own;
  }
  queued_bytes_ += packet.own.size();
  queue_.push_back(std::move(packet));
}

// As far as the filters have decided, and no further than the packet before it (`limit`).
void PacketPath::advance(Packet& packet, PacketNo number, std::size_t limit) {
  while (!packet.dropped && packet.stage < filters_.size()) {
    Filter& filter = *filters_[packet.stage];
    if (!packet.open && !packet.decided) ask(filter, packet, number);
    if (packet.open || packet.stage >= limit) return;
    settle(filter, packet, number, *std::exchange(packet.decided, std::nullopt));
    ++packet.stage;
  }
  if (packet.dropped) packet.stage = limit;
}

void PacketPath::ask(Filter& filter, Packet& packet, PacketNo number) {
  ++filter.counters.asked;
  packet.decided = filter.filter->ask(number, packet.bytes);
  if (packet.decided) return;
  packet.open = true;
  packet.deadline = Clock::now() + filter.options.deadline;
  filter.open.push_back(number);
}

void PacketPath::settle(Filter& filter, Packet& packet, PacketNo number, Decision decision) {
  switch (decision.verdict) {
    case Verdict::kPass: ++filter.counters.passed; return;
    case Verdict::kHold:
      ++filter.counters.held;
      if (number > filter.released) packet.held_by |= filter.bit;
      return;
    case Verdict::kReplace:
      if (decision.packet.size() <= kPacketHeader || decision.packet.size() > kPacketMax) break;
      ++filter.counters.replaced;
      packet.own = std::move(decision.packet);
      packet.bytes = packet.own;
      return;
    case Verdict::kDrop: break;
  }
  ++filter.counters.dropped;
  drop(packet);
}

void PacketPath::drop(Packet& packet) {
  ++counters_.dropped;
  packet.dropped = true;
  packet.open = false;
  packet.own = {};
  packet.bytes = {};
}

// The packet at `index` may have got an answer; those behind it follow as long as that makes way for them. `all`: any may have.
void PacketPath::advance_from(std::size_t index, bool all) {
  for (; index < queue_.size(); ++index) {
    Packet& packet = queue_[index];
    const std::size_t before = packet.stage;
    queued_bytes_ -= packet.own.size();
    if (!packet.dropped) {
      advance(packet, number_of(index), index == 0 ? filters_.size() : queue_[index - 1].stage);
    } else {
      packet.stage = index == 0 ? filters_.size() : queue_[index - 1].stage;
    }
    queued_bytes_ += packet.own.size();
    if (packet.stage == before && !all) return;
  }
}

void PacketPath::flush() {
  while (!queue_.empty()) {
    const Packet& packet = queue_.front();
    if (!packet.dropped && (packet.stage < filters_.size() || packet.held_by != 0)) return;
    if (!packet.dropped) write_out(packet.bytes);
    queued_bytes_ -= packet.own.size();
    queue_.pop_front();
    ++first_.value;
  }
}

void PacketPath::write_out(std::span<const std::byte> bytes) {
  if (send_packet(tap_.get(), bytes)) {
    ++counters_.out;
    counters_.out_bytes += bytes.size();
  } else {
    ++counters_.refused;
  }
}

PacketPath::Packet* PacketPath::queued(PacketNo number) {
  if (number < first_ || number.value - first_.value >= queue_.size()) return nullptr;
  return &queue_[number.value - first_.value];
}

void PacketPath::expire(Clock::time_point now) {
  for (std::size_t stage = 0; stage < filters_.size(); ++stage) {
    Filter& filter = *filters_[stage];
    while (!filter.open.empty()) {
      const PacketNo number = filter.open.front();
      Packet* packet = queued(number);
      if (packet != nullptr && packet->open && packet->stage == stage) {
        if (packet->deadline > now) break;
        ++filter.counters.late;
        packet->open = false;
        packet->decided = Decision{filter.options.when_late == WhenLate::kFailOpen ? Verdict::kPass : Verdict::kDrop};
        advance_from(number.value - first_.value);
      }
      filter.open.pop_front();
    }
  }
  flush();
}

std::optional<PacketPath::Clock::time_point> PacketPath::next_deadline() {
  std::optional<Clock::time_point> next;
  for (std::size_t stage = 0; stage < filters_.size(); ++stage) {
    std::deque<PacketNo>& open = filters_[stage]->open;
    const Packet* packet = nullptr;
    for (; !open.empty(); open.pop_front()) {
      packet = queued(open.front());
      if (packet != nullptr && packet->open && packet->stage == stage) break;
    }
    if (!open.empty() && (!next || packet->deadline < *next)) next = packet->deadline;
  }
  return next;
}

// Another thread than the path's own asked something.
void PacketPath::wake_if_earlier() {
  const std::optional<Clock::time_point> next = next_deadline();
  if (next && *next < sleeping_until_) wake(wake_.get());
}

PacketPath::Filter* PacketPath::find(FilterId id) {
  const auto at = std::find_if(filters_.begin(), filters_.end(), [id](const auto& f) { return f->id == id; });
  return at == filters_.end() ? nullptr : at->get();
}

FilterId PacketPath::attach(PacketFilter& filter, const FilterOptions& options, std::size_t position) {
  const auto lock = enter();
  std::uint32_t used = 0;
  for (const auto& other : filters_) used |= other->bit;
  if (filters_.size() >= kFiltersMax) throw Error(Code::kBusy, "a guest's packets have too many filters");
  const std::uint32_t bit = ~used & (used + 1);
  position = std::min(position, filters_.size());
  // What is queued at that stage or behind it has come before.
  for (Packet& packet : queue_) {
    if (packet.stage >= position) ++packet.stage;
  }
  const FilterId id{++last_filter_};
  filters_.insert(filters_.begin() + static_cast<std::ptrdiff_t>(position), std::make_unique<Filter>(Filter{id, &filter, options, bit}));
  return id;
}

void PacketPath::detach(FilterId id, WhenLate policy) {
  const auto lock = enter();
  const auto at = std::find_if(filters_.begin(), filters_.end(), [id](const auto& f) { return f->id == id; });
  if (at == filters_.end()) return;
  const auto stage = static_cast<std::size_t>(at - filters_.begin());
  const std::uint32_t bit = (*at)->bit;
  for (Packet& packet : queue_) {
    const bool waits = packet.stage == stage && (packet.open || packet.decided);
    if (!packet.dropped && policy == WhenLate::kFailClosed && (waits || (packet.held_by & bit) != 0)) {
      queued_bytes_ -= packet.own.size();
      drop(packet);
    }
    if (waits) {
      packet.open = false;
      packet.decided.reset();
    }
    packet.held_by &= ~bit;
    if (packet.stage > stage) --packet.stage;
  }
  filters_.erase(at);
  advance_from(0, true);
  flush();
  wake_if_earlier();
}

bool PacketPath::decide(Filter& filter, Packet& packet, Decision decision) {
  const bool here = packet.stage < filters_.size() && filters_[packet.stage].get() == &filter;
  // That it is to be held is known, and waits for what is before it.
  const bool to_be_held = here && packet.decided && packet.decided->verdict == Verdict::kHold;
  if (here && (packet.open || to_be_held)) {
    packet.open = false;
    packet.decided = std::move(decision);
    return true;
  }
  if ((packet.held_by & filter.bit) == 0) return false;
  if (decision.verdict == Verdict::kPass) {
    packet.held_by &= ~filter.bit;
  } else if (decision.verdict == Verdict::kDrop) {
    ++filter.counters.dropped;
    queued_bytes_ -= packet.own.size();
    drop(packet);
  } else {
    return false;
  }
  return true;
}

bool PacketPath::answer(FilterId id, PacketNo number, Decision decision) {
  const auto lock = enter();
  Packet* packet = queued(number);
  Filter* filter = find(id);
  if (packet == nullptr || filter == nullptr || packet->dropped || !decide(*filter, *packet, std::move(decision))) return false;
  advance_from(number.value - first_.value);
  flush();
  wake_if_earlier();
  return true;
}

PacketNo PacketPath::mark() {
  const auto lock = enter();
  take_in(kMarkMax);
  wake_if_earlier();
  return {first_.value + queue_.size() - 1};
}

void PacketPath::release(FilterId id, PacketNo last) {
  const auto lock = enter();
  Filter* filter = find(id);
  if (filter == nullptr || last <= filter->released) return;
  const std::uint64_t from = std::max(filter->released.value + 1, first_.value);
  filter->released = last;
  for (std::uint64_t n = from; n <= last.value; ++n) {
    Packet* packet = queued({n});
    if (packet == nullptr) break;
    packet->held_by &= ~filter->bit;
  }
  flush();
}

PathCounters PacketPath::counters() const {
  const auto lock = enter();
  PathCounters now = counters_;
  now.queued = queue_.size();
  now.queued_bytes = queued_bytes_;
  return now;
}

FilterCounters PacketPath::counters(FilterId id) const {
  const auto lock = enter();
  for (const auto& filter : filters_) {
    if (filter->id == id) return filter->counters;
  }
  return {};
}

}  // namespace mhv::net
