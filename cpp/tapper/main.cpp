// mhv-tapper: puts the engine between a guest's tap and its switch; see tapper.h.
#include <memory>

#include "broker/daemon.h"
#include "tapper/tapper.h"

int main(int argc, char** argv) {
  using namespace mhv;
  return broker::run({.name = "mhv-tapper",
                      .version = MHV_VERSION,
                      .about = "The part of nova-mhv that puts the engine between a guest's tap and its switch.",
                      .socket = "tapper.sock",
                      .folder = "netns",
                      .prepare =
                          [](const std::string& run_dir) {
                            auto answers = std::make_shared<tapper::Answers>(run_dir, "/run/openvswitch/db.sock");
                            return
                                [answers](const auto& request, auto* reply, std::string* what) { return (*answers)(request, reply, what); };
                          },
                      .needs = tapper::needs()},
                     argc, argv);
}
