// What a layer may ask of the kernel: its last barrier, and the one that the others stand behind.
#pragma once

namespace mhv::jail {

// Landlock: reads and executes below /, nothing else; where the kernel has it, signals and abstract sockets reach no further than
// this process and what it starts. Logs a warning and goes on where there is no Landlock: all mounts are read-only.
void confine_files();

// An allow-list. What is merely not on it fails with EPERM; what no honest program asks for, even to see whether it is there, ends
// the process with SIGSYS. Threads yes, processes no: so the limits of one process are those of the layer. `machine`: with the few more
// that an emulator cannot do without. Throws kUnsupported.
void filter_system_calls(bool machine);

}  // namespace mhv::jail
