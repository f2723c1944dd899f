// A guest's network: through the engine while one of its layers claims it, and the old way when none does, or the guest has ended.
#include <spdlog/spdlog.h>

#include "mhvd/guest.h"

namespace mhv::mhvd {

void Guest::settle_taps(const Domain& domain) {
  protocol::ServiceOptions options;
  std::shared_ptr<WorkerProcess> worker;
  {
    const std::lock_guard lock(mutex_);
    options = conf_.options();
    worker = worker_;
  }
  const bool wanted = claims_network(layer_host_.registry, options);
  if (taps_.any() && (!wanted || taps_.process() != domain.process)) {
    if (attachment_) leave_taps(worker.get());
    taps_.undo();
    spdlog::info("guest {}: its packets go the old way", label());
  }
  if (!wanted || !attachment_ || !worker) return;
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

// First, so that what is queued goes where the policies of the layers say.
void Guest::leave_taps(WorkerProcess* worker) {
  protocol::WorkerCommand command;
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

}  // namespace mhv::mhvd
