// An epoch of a layer in a service VM beside the same in a process, as root: usage: service_vm_bench MHV_JAIL LAYERS IMAGE.
// Prints JSON objects, one a line (tests/bench/stack.py).
#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "mhvd/layer_processes.h"
#include "stack/charter.h"
#include "stack/running_layer.h"

namespace mhv::mhvd {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr int kEpochs = 200;
constexpr auto kEvery = 25ms;
constexpr const char* kLayer = "heatmap";
constexpr const char* kHello =
    R"({"abi": 1, "guest": "00000000-0000-4000-8000-000000000001", "name": "bench", "layer": "heatmap", "configuration": {}, "memory": []})";

struct Found {
  double ready_ms, epoch_us;
};

// From when the engine has an epoch until it knows that the layer has finished it.
double epoch_us(stack::RunningLayer& layer, std::uint64_t number) {
  const auto from = Clock::now();
  layer.epoch({number, 0, {}, {}, false});
  while (layer.counts().epochs < number) std::this_thread::sleep_for(10us);
  return std::chrono::duration<double, std::micro>(Clock::now() - from).count();
}

Found measure(const Config& config, bool in_vm) {
  const LayerPackage package = LayerRegistry(config.layer_folders, "/nonexistent", {}).find(kLayer);
  ring::NewChannel channel = in_vm ? ring::make_polled_channel() : ring::make_channel();
  std::vector<Fd> fds;
  fds.push_back(std::move(channel.layer.memory));
  if (!in_vm) {
    fds.push_back(std::move(channel.layer.wakes_me));
    fds.push_back(std::move(channel.layer.wakes_peer));
  }
  const auto from = Clock::now();
  stack::Charter charter = stack::charter_of(package.manifest, "");
  charter.ready_in = 5min;
  stack::RunningLayer::Handlers handlers;
  handlers.on_ready = handlers.on_event = handlers.on_end = [](const std::string&) {};
  stack::RunningLayer layer(std::move(channel.engine), charter, kHello, nullptr, handlers);
  LayerUsers users;
  LayerProcesses processes(config, users);
  processes.start(package, 1, std::move(fds));
  while (!layer.counts().ready) {
    if (!processes.ended().empty()) throw Error(Code::kUnavailable, "the layer ended", "mhv-jail's lines say why");
    std::this_thread::sleep_for(1ms);
  }
  Found out{std::chrono::duration<double, std::milli>(Clock::now() - from).count(), 0};
  std::vector<double> all;
  for (std::uint64_t number = 1; number <= kEpochs; ++number) {
    all.push_back(epoch_us(layer, number));
    std::this_thread::sleep_for(kEvery);
  }
  std::ranges::nth_element(all, all.begin() + kEpochs / 2);
  out.epoch_us = all[kEpochs / 2];
  return out;
}

void line(const char* name, double value, const char* unit, double floor) {
  fmt::print(R"({{"name": "{}", "value": {:.3f}, "unit": "{}", "floor": {:.3f}, "ratio": {:.3f}}})"
             "\n",
             name, value, unit, floor, value / floor);
}

}  // namespace
}  // namespace mhv::mhvd

int main(int argc, char** argv) {
  using namespace mhv::mhvd;
  if (argc != 4) {
    fmt::print(stderr, "usage: service_vm_bench MHV_JAIL LAYERS IMAGE\n");
    return 2;
  }
  Config config;
  config.jail = argv[1];
  config.layer_folders = {argv[2]};
  config.service_vm_image = argv[3];
  try {
    const Found process = measure(config, false);
    config.service_vms = {kLayer};
    const Found machine = measure(config, true);
    line("stack.service_vm_epoch_us", machine.epoch_us, "us", process.epoch_us);
    line("stack.service_vm_ready_ms", machine.ready_ms, "ms", process.ready_ms);
  } catch (const mhv::Error& error) {
    fmt::print(stderr, "{}; {}\n", error.what(), error.hint());
    return 1;
  }
}
