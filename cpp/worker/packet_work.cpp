#include "worker/packet_work.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "base/error.h"

namespace mhv::worker {
namespace {

static_assert(stack::kFrameMax + net::kPacketHeader <= net::kPacketMax);

net::WhenLate policy_of(const stack::Charter& charter) {
  return charter.fail_closed ? net::WhenLate::kFailClosed : net::WhenLate::kFailOpen;
}

bool same_filter(const stack::Charter& a, const stack::Charter& b) {
  return a.name == b.name && a.network == b.network && a.fail_closed == b.fail_closed && a.budget == b.budget;
}

// A frame of a layer's own is whole: nothing of it is left to a device.
net::Decision decision_of(stack::PacketVerdict said) {
  switch (said.decision) {
    case ring::Decision::kPass: return {net::Verdict::kPass};
    case ring::Decision::kDrop: return {net::Verdict::kDrop};
    case ring::Decision::kHold: return {net::Verdict::kHold};
    case ring::Decision::kReplace: said.frame.insert(said.frame.begin(), net::kPacketHeader, std::byte{0}); break;
  }
  return {net::Verdict::kReplace, std::move(said.frame)};
}

Fd take_descriptor(std::vector<Fd>& fds, std::uint32_t number) {
  if (number >= fds.size() || !fds[number]) throw Error(Code::kInvalid, "mhvd named a descriptor that it did not send");
  return std::move(fds[number]);
}

}  // namespace

// Of one layer in one path, while it runs or while it does not.
class PacketWork::Filter : public net::PacketFilter {
 public:
  Filter(std::uint64_t number, const Path& path, const stack::Charter& charter, std::shared_ptr<stack::RunningLayer> running)
      : number_(number),
        nic_(path.nic),
        direction_(path.direction),
        sees_only_(charter.network == stack::NetworkClaim::kSee),
        without_it_(charter.fail_closed ? net::Verdict::kDrop : net::Verdict::kPass),
        running_(std::move(running)) {}

  std::optional<net::Decision> ask(net::PacketNo number, std::span<const std::byte> packet) override {
    const auto frame = packet.subspan(std::min(packet.size(), net::kPacketHeader));
    if (!running_ || !running_->packet({number_, number.value}, nic_, direction_, frame)) {
      ++missed_;
      return net::Decision{without_it_};
    }
    if (sees_only_) return net::Decision{};
    return std::nullopt;
  }

  std::uint64_t number() const { return number_; }
  std::uint64_t missed() const { return missed_; }
  bool runs() const { return running_ != nullptr; }

 private:
  const std::uint64_t number_;
  const std::uint32_t nic_;
  const ring::Direction direction_;
  const bool sees_only_;
  const net::Verdict without_it_;
  const std::shared_ptr<stack::RunningLayer> running_;
  std::atomic<std::uint64_t> missed_ = 0;
};

PacketWork::PacketWork() = default;
PacketWork::~PacketWork() = default;

// ---------------------------------------------------------------- filters, with mutex_ held

PacketWork::Slot PacketWork::attach(Path& path, const stack::Charter& charter, std::shared_ptr<stack::RunningLayer> running,
                                    std::size_t position) {
  Slot out{charter, std::make_unique<Filter>(++last_filter_, path, charter, std::move(running)), {}};
  out.id = path.path->attach(*out.filter, {charter.budget, policy_of(charter)}, position);
  routes_[last_filter_] = {path.path.get(), out.id};
  return out;
}

void PacketWork::detach(Path& path, std::size_t position, Retired& retired) {
  Slot& slot = path.slots[position];
  count(path, slot, past_[slot.charter.name]);
  path.path->detach(slot.id, policy_of(slot.charter));
  routes_.erase(slot.filter->number());
  retired.push_back(std::move(slot.filter));
  path.slots.erase(path.slots.begin() + static_cast<std::ptrdiff_t>(position));
}

void PacketWork::arrange(Path& path, Retired& retired) {
  const auto stays = [&](const Slot& slot) {
    return std::ranges::any_of(stack_, [&](const stack::Charter& charter) { return same_filter(slot.charter, charter); });
  };
  std::size_t at = 0;
  for (const stack::Charter& charter : stack_) {
    const auto from = path.slots.begin() + static_cast<std::ptrdiff_t>(at);
    const auto found = std::find_if(from, path.slots.end(), [&](const Slot& slot) { return same_filter(slot.charter, charter); });
    if (found == path.slots.end() || std::any_of(from, found, stays)) {
      const auto running = running_.find(charter.name);
      path.slots.insert(from, attach(path, charter, running == running_.end() ? nullptr : running->second, at));
    } else {
      for (auto left = found - from; left > 0; --left) detach(path, at, retired);
    }
    ++at;
  }
  while (path.slots.size() > at) detach(path, at, retired);
}

void PacketWork::replace(const std::string& name, const std::shared_ptr<stack::RunningLayer>& running) {
  Retired retired;
  const std::lock_guard lock(mutex_);
  if (running) {
    running_[name] = running;
  } else {
    running_.erase(name);
  }
  for (const auto& path : paths_) {
    for (std::size_t i = 0; i < path->slots.size(); ++i) {
      if (path->slots[i].charter.name != name || (!running && !path->slots[i].filter->runs())) continue;
      path->slots.insert(path->slots.begin() + static_cast<std::ptrdiff_t>(i), attach(*path, path->slots[i].charter, running, i));
      detach(*path, i + 1, retired);
    }
  }
}

// ---------------------------------------------------------------- layers

void PacketWork::configure(const std::vector<stack::Charter>& stack) {
  Retired retired;
  const std::lock_guard lock(mutex_);
  stack_.clear();
  for (const stack::Charter& charter : stack) {
    if (charter.network != stack::NetworkClaim::kNone) stack_.push_back(charter);
  }
  for (const auto& path : paths_) arrange(*path, retired);
}

void PacketWork::layer_up(const std::string& name, const std::shared_ptr<stack::RunningLayer>& running) {
  if (running->charter().network != stack::NetworkClaim::kNone) replace(name, running);
}

void PacketWork::layer_down(const std::string& name) { replace(name, nullptr); }

void PacketWork::verdict(stack::PacketVerdict said) {
  const std::lock_guard lock(mutex_);
  const auto route = routes_.find(said.about.path);
  if (route == routes_.end()) return;  // of a tap that is gone
  const net::PacketNo number{said.about.packet};
  route->second.path->answer(route->second.id, number, decision_of(std::move(said)));
}

// ---------------------------------------------------------------- taps

void PacketWork::add(const protocol::WorkerTap& tap, ring::Direction direction, Fd fd, Retired& retired) {
  auto path = std::make_unique<Path>();
  path->tap = tap.name();
  path->nic = tap.nic();
  path->direction = direction;
  path->path = std::make_unique<net::PacketPath>(std::move(fd));
  arrange(*path, retired);
  path->path->start();
  paths_.push_back(std::move(path));
}

// Nothing is read or written any more, and what is queued goes nowhere.
void PacketWork::shut(Path& path, Retired& retired) {
  for (Slot& slot : path.slots) {
    count(path, slot, past_[slot.charter.name]);
    routes_.erase(slot.filter->number());
    retired.push_back(std::move(slot.filter));
  }
  path.path.reset();
  path.slots.clear();
}

void PacketWork::remove(const std::string& tap, Queued queued, Retired& retired) {
  for (const auto& path : paths_) {
    if (path->tap != tap) continue;
    if (queued == Queued::kDropped) shut(*path, retired);
    while (!path->slots.empty()) detach(*path, path->slots.size() - 1, retired);
  }
  std::erase_if(paths_, [&](const auto& path) { return path->tap == tap; });
}

void PacketWork::change_taps(const protocol::WorkerTaps& taps, std::vector<Fd> fds) {
  Retired retired;
  const std::lock_guard lock(mutex_);
  for (const std::string& name : taps.removed()) remove(name, taps.drop() ? Queued::kDropped : Queued::kByPolicy, retired);
  for (const protocol::WorkerTap& tap : taps.added()) {
    remove(tap.name(), Queued::kByPolicy, retired);
    add(tap, ring::Direction::kFromGuest, take_descriptor(fds, tap.from_guest_fd()), retired);
    add(tap, ring::Direction::kToGuest, take_descriptor(fds, tap.to_guest_fd()), retired);
    spdlog::info("packets of tap {} go by way of {} layers", tap.name(), stack_.size());
  }
}

void PacketWork::remove_all_taps() {
  Retired retired;
  const std::lock_guard lock(mutex_);
  while (!paths_.empty()) remove(std::string(paths_.front()->tap), Queued::kByPolicy, retired);
}

// ---------------------------------------------------------------- figures

void PacketWork::count(const Path& path, const Slot& slot, Counts& into) const {
  const net::FilterCounters counters = path.path->counters(slot.id);
  into.packets += counters.asked;
  into.dropped += counters.dropped;
  into.late += counters.late + slot.filter->missed();
}

PacketWork::Counts PacketWork::counts(const std::string& layer) const {
  const std::lock_guard lock(mutex_);
  Counts out;
  if (const auto past = past_.find(layer); past != past_.end()) out = past->second;
  for (const auto& path : paths_) {
    for (const Slot& slot : path->slots) {
      if (slot.charter.name == layer) count(*path, slot, out);
    }
  }
  return out;
}

}  // namespace mhv::worker
