// What a privileged process gives up before it serves anyone.
#pragma once

#include <cstdint>
#include <vector>

namespace mhv::broker {

// A system call that is allowed with one value of one of its arguments.
struct CallWith {
  int call = 0;
  unsigned argument = 0;
  std::uint64_t value = 0;
};

// What it needs besides memory, threads, clocks, files and unix sockets.
struct Needs {
  std::vector<unsigned> capabilities;
  std::vector<int> calls;
  std::vector<CallWith> calls_with;
};

// mhv-broker's: trace other users' processes, open the files behind their mappings, and reach files whoever owns them.
Needs broker_needs();

// Keeps what is needed and no more, and forbids new privileges. Call it with one thread running. Throws.
void harden(const Needs& needs);

}  // namespace mhv::broker
