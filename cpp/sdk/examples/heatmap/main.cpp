// Where a guest writes: in how many of its epochs each 2 MiB of its memory were written, older ones counting for less and less.
#include <algorithm>
#include <map>
#include <set>

#include "sdk/layer.h"

using mhv::sdk::Json;

class HeatMap : public mhv::sdk::Layer {
  static constexpr std::uint64_t kRegion = 2 << 20;
  std::map<std::uint64_t, double> heat_;  // by number of the region
  int event_every_ = 40, epochs_ = 0;

  void on_start(mhv::sdk::Guest&, const Json& configuration) override { event_every_ = configuration.value("event_every", 40); }

  void on_epoch(const mhv::sdk::Epoch& epoch) override {
    std::set<std::uint64_t> regions;
    const auto written = [&](std::uint64_t start, std::uint64_t bytes) {
      for (std::uint64_t region = start / kRegion; region * kRegion < start + bytes; ++region) regions.insert(region);
    };
    for (const auto& range : epoch.written) written(range.start, range.bytes);
    if (epoch.written_all) {
      for (const auto& range : guest().ranges()) written(range.start.value, range.bytes);
    }
    for (auto& [region, heat] : heat_) heat *= 0.9;
    std::erase_if(heat_, [](const auto& one) { return one.second < 0.01; });
    for (const std::uint64_t region : regions) heat_[region] += 1;
    if (++epochs_ % event_every_ == 0) send_event({{"kind", "heat"}, {"hottest", hottest(5)}});
  }

  Json on_request(const std::string& method, const Json& arguments) override {
    return method == "heat" ? hottest(arguments.value("limit", std::size_t{20})) : Layer::on_request(method, arguments);
  }

  Json hottest(std::size_t limit) const {
    std::vector<std::pair<std::uint64_t, double>> all(heat_.begin(), heat_.end());
    std::ranges::stable_sort(all, std::greater(), &std::pair<std::uint64_t, double>::second);
    Json out = Json::array();
    for (const auto& [region, heat] : std::span(all).first(std::min(limit, all.size()))) {
      out.push_back({{"start", region * kRegion}, {"heat", heat}});
    }
    return out;
  }
};

int main(int argc, char** argv) { return mhv::sdk::run(*std::make_unique<HeatMap>(), argc, argv); }
