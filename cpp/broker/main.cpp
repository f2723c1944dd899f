// mhv-broker: the privileged part of nova-mhv. It opens, injects and passes descriptors, and does nothing else.
#include <memory>

#include "broker/answers.h"
#include "broker/daemon.h"

int main(int argc, char** argv) {
  using namespace mhv::broker;
  return run({.name = "mhv-broker",
              .version = MHV_VERSION,
              .about = "The privileged part of nova-mhv: opens, injects and passes descriptors of QEMU processes, and does nothing else.",
              .socket = "broker.sock",
              .folder = "qmp",
              .prepare =
                  [](const std::string& run_dir) {
                    return [answers = std::make_shared<Answers>(run_dir)](const auto& request, auto* reply, std::string* what) {
                      return (*answers)(request, reply, what);
                    };
                  },
              .needs = broker_needs()},
             argc, argv);
}
