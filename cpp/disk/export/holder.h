// Holds the listening socket of a disk's export, and starts the export again when it was killed.
#pragma once

#include <string>
#include <vector>

namespace mhv::disk {

// Runs `command` with the socket as its LISTEN_FDS until this process gets SIGTERM or SIGINT, or until the command ends by itself
// without ever having been killed (then its exit status is returned). A command that was killed is started again at once: connections wait
// in the socket's queue meanwhile, so a guest sees only the time in between. `pid_file`: the command's process id; may be empty.
int hold_export(const std::string& socket, const std::vector<std::string>& command, const std::string& pid_file);

}  // namespace mhv::disk
