// mhvctl layer, introspect and alerts: what the layers of this host and of a guest say.
#pragma once

#include <CLI/CLI.hpp>

#include "ctl/session.h"

namespace mhv::ctl {

// A command that was parsed sets `chosen`, which has to outlive `app`. A further sub-command of `layer` gets a file of its own and a
// line in add_layer_commands.
void add_layer_commands(CLI::App& app, Action& chosen);
void add_introspect_command(CLI::App& app, Action& chosen);
void add_alerts_command(CLI::App& app, Action& chosen);

}  // namespace mhv::ctl
