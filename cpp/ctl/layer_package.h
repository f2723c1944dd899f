// mhvctl layer pack, verify, install: packages of layers. None of them asks mhvd.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

namespace mhv::ctl {

// What to print, as text or as a line of JSON. Throws Error.
using PackageAction = std::function<std::string(bool json)>;

// Adds pack, verify and install to `layer`; the one that was given is handed to `choose`.
void add_package_commands(CLI::App& layer, const std::function<void(PackageAction)>& choose);

}  // namespace mhv::ctl
