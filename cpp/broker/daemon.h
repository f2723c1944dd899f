// What the main programs of the privileged processes share.
#pragma once

#include <functional>
#include <string>

#include "broker/harden.h"
#include "broker/server.h"

namespace mhv::broker {

struct Daemon {
  std::string name;
  std::string version;
  std::string about;
  std::string socket;                                         // in the run folder
  std::string folder;                                         // what else it uses there
  std::function<Answer(const std::string& run_dir)> prepare;  // before anything is given up
  Needs needs;
};

// Serves until SIGTERM or SIGINT; returns the exit status.
int run(const Daemon& daemon, int argc, char** argv);

}  // namespace mhv::broker
