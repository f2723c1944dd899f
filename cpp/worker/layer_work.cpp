// What the worker does for its guest's layers.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "worker/worker.h"

namespace mhv::worker {

Layers::Owner Worker::layers_owner() {
  Layers::Owner owner;
  owner.uuid = guest_;
  owner.name = name_;
  owner.enqueue = [this](Task task) { enqueue(std::move(task)); };
  owner.changed = [this] { enqueue([this] { report(state_name_); }); };
  owner.act = [this](const std::string& layer, const stack::RunningLayer::Wish& wish) { act_for_layer(layer, wish); };
  owner.paused = [this](std::uint64_t us) { paused_us_ += us; };
  return owner;
}

void Worker::tick_layers() {
  const bool at_rest = std::ranges::none_of(services_, [](const auto& service) { return service->is_between_moments(); });
  layers_.tick(live_ && !is_held() && at_rest);
}

void Worker::act_for_layer(const std::string& layer, const stack::RunningLayer::Wish& wish) {
  if (!live_) return;
  spdlog::warn("guest {} ({}): layer {} asks for {}: {}", name_, guest_, layer, wish.action, wish.reason);
  try {
    if (std::ranges::any_of(services_,
                            [&](const auto& service) { return service->act(layer, wish.action, wish.reason, wish.before_ns); })) {
      return;
    }
    if (wish.action == "hold" || wish.action == "release") {  // mhvd does it, for it outlives a worker
      protocol::WorkerReport out;
      out.mutable_network_wish()->set_layer(layer);
      out.mutable_network_wish()->set_hold(wish.action == "hold");
      out.mutable_network_wish()->set_reason(wish.reason);
      control_.send(out);
    } else {  // "pause" or "stop": until somebody lets it run
      live_->machine.stop();
      report("attached", fmt::format("stopped by layer {}: {}; \"virsh resume\" lets it run", layer, wish.reason));
    }
  } catch (const Error& error) {
    if (error.code() == Code::kGone || error.code() == Code::kUnavailable) throw;
    spdlog::error("guest {} ({}): {} for layer {} failed: {}", name_, guest_, wish.action, layer, error.what());
  }
}

}  // namespace mhv::worker
