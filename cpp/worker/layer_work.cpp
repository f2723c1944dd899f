// What the worker does for its guest's layers.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "worker/worker.h"

namespace mhv::worker {

Layers::Owner Worker::layers_owner() {
  Layers::Owner owner;
  owner.uuid = guest_;
  owner.name = name_;
  owner.enqueue = [this](Task task) { enqueue(std::move(task)); };
  owner.changed = [this] { enqueue([this] { report(state_name_); }); };
  owner.act = [this](const std::string& layer, const std::string& action, const std::string& reason) {
    act_for_layer(layer, action, reason);
  };
  owner.paused = [this](std::uint64_t us) { paused_us_ += us; };
  return owner;
}

void Worker::tick_layers() { layers_.tick(live_ && !is_held() && state_.phase() == checkpoint::RunState::Phase::kRunning); }

void Worker::act_for_layer(const std::string& layer, const std::string& action, const std::string& reason) {
  if (!live_) return;
  spdlog::warn("guest {} ({}): layer {} asks for {}: {}", name_, guest_, layer, action, reason);
  try {
    if (action == "checkpoint") {
      create(fmt::format("{}: {}", layer, reason).substr(0, 255), false, no_progress);
    } else if (action == "rollback") {
      const std::optional<store::CheckpointInfo> newest = store_->newest();
      if (!newest) throw Error(Code::kNotFound, "there is no checkpoint");
      protocol::Request request;
      request.mutable_checkpoint_restore()->set_id(newest->id);
      restore(request);
    } else if (action == "stop") {
      live_->machine.stop();
      report("attached", fmt::format("stopped by layer {}: {}; \"virsh resume\" lets it run", layer, reason));
    } else {
      throw Error(Code::kUnsupported, "this engine cannot do that");
    }
  } catch (const Error& error) {
    if (error.code() == Code::kGone || error.code() == Code::kUnavailable) throw;
    spdlog::error("guest {} ({}): {} for layer {} failed: {}", name_, guest_, action, layer, error.what());
  }
}

}  // namespace mhv::worker
