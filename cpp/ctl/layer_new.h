// mhvctl layer new: a project to begin a layer with, which builds and runs as it is.
#pragma once

#include <CLI/CLI.hpp>

#include "ctl/session.h"

namespace mhv::ctl {

void add_layer_new_command(CLI::App& group, Action& chosen);

}  // namespace mhv::ctl
