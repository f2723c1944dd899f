// mhvctl service, and the configuration of services for attach.
#pragma once

#include <CLI/CLI.hpp>

#include "ctl/session.h"

namespace mhv::ctl {

// A command that was parsed sets `chosen`, which has to outlive `app`.
void add_service_commands(CLI::App& app, Action& chosen);

// `text` as it is, or the content of the file that it names as "@FILE". Throws kInvalid for what is no JSON object or longer than 64 KiB.
std::string configuration_of(const std::string& service, const std::string& text);

// "introspection=JSON" or "introspection=@FILE". Throws kInvalid, also for a second one of the same service.
void add_configuration(protocol::ServiceOptions& options, const std::string& text);

}  // namespace mhv::ctl
