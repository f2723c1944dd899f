// What the worker does for its guest's layers.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "base/text.h"
#include "worker/worker.h"

namespace mhv::worker {
namespace {

constexpr std::size_t kNameMax = 255;

}  // namespace

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

void Worker::tick_layers() { layers_.tick(live_ && !is_held() && state_.phase() == checkpoint::RunState::Phase::kRunning); }

std::string Worker::newest_before(std::uint64_t ns) const {
  std::string found;
  for (const store::CheckpointInfo& info : store_->list()) {
    if (ns == 0 || static_cast<std::uint64_t>(info.created_ns) < ns) found = info.id;
  }
  if (found.empty()) throw Error(Code::kNotFound, "there is no checkpoint from before that");
  return found;
}

void Worker::act_for_layer(const std::string& layer, const stack::RunningLayer::Wish& wish) {
  if (!live_) return;
  spdlog::warn("guest {} ({}): layer {} asks for {}: {}", name_, guest_, layer, wish.action, wish.reason);
  try {
    if (wish.action == "checkpoint") {
      create(beginning(fmt::format("{}: {}", layer, wish.reason), kNameMax), false, no_progress);
    } else if (wish.action == "rollback") {
      protocol::Request request;
      request.mutable_checkpoint_restore()->set_id(newest_before(wish.before_ns));
      restore(request);
    } else if (wish.action == "hold" || wish.action == "release") {  // mhvd does it, for it outlives a worker
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
