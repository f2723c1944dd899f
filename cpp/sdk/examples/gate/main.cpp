// A gate in a guest's network: open, shut (nothing gets through, either way), or holding what the guest sends until it is released.
//
//   mhvctl layer call s1 gate mode '{"mode": "hold"}'      from now on: "pass", "drop" or "hold"
//   mhvctl layer call s1 gate release                      what is held goes, in its order
//   mhvctl layer call s1 gate counts
#include <vector>

#include "sdk/layer.h"

using mhv::sdk::Decision;
using mhv::sdk::Json;

class Gate : public mhv::sdk::Layer {
  std::string mode_ = "pass";
  std::vector<std::uint64_t> held_;  // by number
  std::uint64_t passed_ = 0, dropped_ = 0;

  void on_start(mhv::sdk::Guest&, const Json& configuration) override { mode_ = configuration.value("mode", mode_); }

  Decision on_packet(mhv::sdk::Packet& packet) override {
    if (mode_ == "hold" && packet.direction == mhv::sdk::Direction::kFromGuest) {
      held_.push_back(packet.number);
      return Decision::kHold;
    }
    ++(mode_ == "drop" ? dropped_ : passed_);
    return mode_ == "drop" ? Decision::kDrop : Decision::kPass;
  }

  Json on_request(const std::string& method, const Json& arguments) override {
    if (method == "mode") return set_mode(arguments.value("mode", ""));
    if (method == "release") return release();
    if (method == "counts") return {{"passed", passed_}, {"dropped", dropped_}, {"held", held_.size()}};
    return Layer::on_request(method, arguments);
  }

  Json set_mode(const std::string& mode) {
    if (mode != "pass" && mode != "drop" && mode != "hold") {
      throw mhv::Error(mhv::Code::kInvalid, "the gate has no mode \"" + mode + "\"", "pass, drop or hold");
    }
    return mode_ = mode;
  }

  Json release() {
    for (const std::uint64_t packet : held_) decide(packet, Decision::kPass);
    passed_ += held_.size();
    const std::size_t released = held_.size();
    held_.clear();
    return released;
  }
};

int main(int argc, char** argv) { return mhv::sdk::run(*std::make_unique<Gate>(), argc, argv); }
