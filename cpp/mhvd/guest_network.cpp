// A guest's network: through the engine while one of its layers claims it, nowhere while one holds it, and the old way when none does, or
// the guest has ended.
//
// INVARIANT: a hold is in the guest's configuration before anything is done for it, and until the layer lets go or is taken away. So it is
// kept by whatever mhvd, worker or QEMU comes next.
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>

#include <algorithm>

#include "base/text.h"
#include "mhvd/guest.h"
#include "mhvd/guest_conf.h"

namespace mhv::mhvd {
namespace {

constexpr std::size_t kReasonMax = 255;  // those of all layers fit into a guest.conf

}  // namespace

void Guest::settle_taps(const Domain& domain) {
  protocol::ServiceOptions options;
  std::shared_ptr<WorkerProcess> worker;
  bool held;
  {
    const std::lock_guard lock(mutex_);
    options = conf_.options();
    worker = worker_;
    held = is_held();
  }
  const bool wanted = held || claims_network(layer_host_.registry, options);
  if (taps_.any() && (!wanted || taps_.process() != domain.process)) {
    if (attachment_) leave_taps(worker.get(), false);
    taps_.undo();
    spdlog::info("guest {}: its packets go the old way", label());
  }
  if (held || !wanted || !attachment_ || !worker) return;
  GuestTaps::Change change = taps_.interpose(domain);
  if (change.empty()) return;
  protocol::WorkerCommand command;
  std::vector<int> fds;
  for (const Fd& fd : change.fds) fds.push_back(fd.get());
  for (const auto& tap : change.message.added()) spdlog::info("guest {}: the engine is at tap {}", label(), tap.name());
  *command.mutable_taps() = std::move(change.message);
  try {
    worker->send(command, fds);
  } catch (const Error&) {
    taps_.taken_back();
    throw;
  }
}

void Guest::close_held_taps(const Domain& domain) {
  std::shared_ptr<WorkerProcess> worker;
  {
    const std::lock_guard lock(mutex_);
    if (!is_held() || !domain.process) return;
    worker = worker_;
  }
  if (taps_.at_worker()) leave_taps(worker.get(), true);
  try {
    taps_.close(domain);
  } catch (const Error& error) {
    // Tried again, whatever it was.
    throw Error(Code::kUnavailable, std::string("its network is to be held, and is not: ") + error.what(), error.hint());
  }
}

// Before they are put back, so that what is queued goes where the policies of the layers say; or nowhere.
void Guest::leave_taps(WorkerProcess* worker, bool drop) {
  protocol::WorkerCommand command;
  command.mutable_taps()->set_drop(drop);
  for (const std::string& tap : taps_.names()) command.mutable_taps()->add_removed(tap);
  try {
    if (worker != nullptr) worker->send(command);
  } catch (const Error& error) {
    spdlog::debug("guest {}: {}", label(), error.what());  // it has ended
  }
}

// At once, for the guest's next start needs it; what fails is tried again with the next look.
void Guest::undo_taps() {
  try {
    taps_.undo();
  } catch (const Error& error) {
    spdlog::warn("guest {}: {}", label(), error.what());
  }
}

// ---------------------------------------------------------------- holds, with mutex_ held

// By services that it has: one that is detached and gets them again is held again.
bool Guest::is_held() const {
  return std::ranges::any_of(conf_.options().services(),
                             [&](const std::string& service) { return conf_.network_holds().contains(service); });
}

void Guest::on_network_wish(const protocol::NetworkWish& wish) {
  const auto& services = conf_.options().services();
  if (std::ranges::find(services, wish.layer()) == services.end()) return;  // taken away meanwhile
  auto& holds = *conf_.mutable_network_holds();
  if (wish.hold() == holds.contains(wish.layer())) return;
  if (wish.hold()) {
    holds[wish.layer()] = beginning(wish.reason(), kReasonMax);
    spdlog::warn("guest {} ({}): layer {} holds its network: {}", conf_.name(), uuid_, wish.layer(), wish.reason());
  } else {
    holds.erase(wish.layer());
    spdlog::warn("guest {} ({}): layer {} lets its network go", conf_.name(), uuid_, wish.layer());
  }
  try {
    save_guest_conf(config_.guest_dir(uuid_), conf_);
  } catch (const Error& error) {
    spdlog::error("guest {} ({}): {}; the next mhvd will not know of it", conf_.name(), uuid_, error.what());
  }
  ++looks_wanted_;
  ::eventfd_write(wake_.get(), 1);
}

// A service that is taken away holds nothing any more.
void Guest::drop_holds(protocol::GuestConf& conf) {
  const auto& services = conf.options().services();
  auto& holds = *conf.mutable_network_holds();
  for (auto hold = holds.begin(); hold != holds.end() && !services.empty();) {
    hold = std::ranges::find(services, hold->first) == services.end() ? holds.erase(hold) : std::next(hold);
  }
}

void Guest::show_holds(protocol::GuestStatus& out) const {
  const auto& services = conf_.options().services();
  for (const auto& [name, reason] : conf_.network_holds()) {
    if (std::ranges::find(services, name) == services.end()) continue;
    const auto found = std::ranges::find(*out.mutable_layers(), name, &protocol::LayerStatus::name);
    if (found != out.mutable_layers()->end()) {
      found->set_network_hold(reason);
      continue;
    }
    protocol::LayerStatus& layer = *out.add_layers();
    layer.set_name(name);
    layer.set_state(out.state());
    layer.set_network_hold(reason);
  }
}

}  // namespace mhv::mhvd
