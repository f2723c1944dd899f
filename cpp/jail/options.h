// What mhv-jail is asked to run, and within which limits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mhv::jail {

// The layer's: its channel, what wakes it and the engine, then guest memory. A machine has its kernel and its first files in place of the
// two that wake, and opens all of them again as /fd/N.
inline constexpr int kFirstDescriptor = 3;
inline constexpr int kFirstMemory = 6;

struct Options {
  bool machine = false;     // the program is an emulator of the host, which runs the layer in a virtual machine
  std::string package;      // the folder of the layer's package: /layer inside; empty of a machine
  std::string program;      // beneath it; of a machine, its path
  std::string python_path;  // a folder of Python modules: /python inside; may be empty
  std::string data;         // a folder of what the operator gives this layer: /data inside; may be empty
  std::uint32_t uid = 0;    // on the host; the gid as well
  std::uint32_t memory_mib = 0;
  std::uint32_t cpu_percent = 0;
  std::uint32_t pids = 0;
  std::uint32_t descriptors = 0;  // from kFirstDescriptor on
  std::vector<std::string> arguments;
};

// Throws kInvalid. `help` is set to the text of --help when that was asked for.
Options parse_options(int argc, const char* const* argv, std::string& help);

}  // namespace mhv::jail
