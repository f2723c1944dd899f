// mhvctl layer run: a layer's program beside a recorded guest. mhvd is not asked.
#pragma once

#include <CLI/CLI.hpp>

#include "ctl/session.h"

namespace mhv::ctl {

// As add_layer_commands() has it, of its group.
void add_layer_run_command(CLI::App& layer, Action& chosen);

}  // namespace mhv::ctl
