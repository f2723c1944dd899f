// A guest's layers: their processes, started when its worker asks for them, and what they said.
#include <spdlog/spdlog.h>

#include "mhvd/guest.h"
#include "stack/builtin.h"

namespace mhv::mhvd {

// A package that was taken away meanwhile keeps the others from nothing.
std::vector<protocol::LayerSpec> Guest::layer_specs(const protocol::ServiceOptions& options) const {
  std::vector<protocol::LayerSpec> out;
  for (const std::string& service : options.services()) {
    try {
      if (stack::is_built_in(service)) continue;
      out.push_back(layer_host_.registry.spec(service, options));
      out.back().set_in_vm(config_.runs_in_vm(service));
    } catch (const Error& error) {
      spdlog::error("guest {} ({}): {}; {}", conf_.name(), uuid_, error.what(), error.hint());
    }
  }
  return out;
}

std::vector<protocol::Alert> Guest::alerts(std::uint64_t after) const {
  const std::lock_guard lock(mutex_);
  std::vector<protocol::Alert> out;
  for (const protocol::Alert& alert : alerts_) {
    if (alert.number() > after) out.push_back(alert);
  }
  return out;
}

void Guest::tell_worker(const protocol::LayerEnded& ended) {
  std::shared_ptr<WorkerProcess> worker;
  {
    const std::lock_guard lock(mutex_);
    worker = worker_;
  }
  protocol::WorkerCommand command;
  *command.mutable_layer_ended() = ended;
  try {
    if (worker) worker->send(command);
  } catch (const Error& error) {
    spdlog::debug("guest {}: {}", label(), error.what());  // it has ended, and its layers with it
  }
}

void Guest::serve_layers() {
  for (const protocol::LayerEnded& ended : layers_.ended()) tell_worker(ended);
  std::vector<LayerWish> wishes;
  {
    const std::lock_guard lock(mutex_);
    wishes.swap(layer_wishes_);
  }
  for (LayerWish& wish : wishes) {
    if (wish.report.has_layer_stop()) {
      layers_.stop(wish.report.layer_stop().name(), wish.report.layer_stop().generation());
    } else {
      start_layer(wish.report.layer_start(), std::move(wish.fds));
    }
  }
}

void Guest::start_layer(const protocol::LayerStart& wish, std::vector<Fd> fds) {
  try {
    if (!attachment_) throw Error(Code::kGone, "the guest is gone");
    const LayerPackage package = layer_host_.registry.find_trusted(wish.name());
    for (const std::uint32_t block : wish.blocks()) {
      if (!package.manifest.claims.reads_ram() || block >= attachment_->mappings.size() || attachment_->mappings[block].second == 0) {
        throw Error(Code::kPermission, "the worker asked for memory that the layer may not have");
      }
      fds.push_back(hypervisor_.open_memory(attachment_->process, attachment_->mappings[block]));
    }
    layers_.start(package, wish.generation(), std::move(fds));
    spdlog::info("guest {}: layer {} {} of {} started", label(), wish.name(), package.manifest.version, package.manifest.vendor);
  } catch (const Error& error) {
    protocol::LayerEnded ended;
    ended.set_name(wish.name());
    ended.set_generation(wish.generation());
    ended.set_reason(std::string("it cannot be started: ") + error.what() + (error.hint().empty() ? "" : "; " + error.hint()));
    tell_worker(ended);
  }
}

}  // namespace mhv::mhvd
