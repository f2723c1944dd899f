// What a worker gives up before it reads a byte of any guest.
//
// INVARIANT: after enter_sandbox() this process reaches the files of its store's folder, and the descriptors it was handed, and
// nothing else: no other path, no new socket, no other program or process, no new executable memory.
#pragma once

#include <string>

namespace mhv::worker {

// `store_folder` must exist. Cannot be undone. Only the calling thread and threads it starts later are bound by it, so call it
// while there is one. Throws kUnsupported when the kernel cannot filter system calls; without Landlock it logs a warning that names
// the kernel option and goes on, for the system calls are still filtered and the process is unprivileged.
//
// What a library would read on first use (time zone) is read before; a system call that is merely unknown fails with EPERM, one
// that only an intruder makes (execve, ptrace, socket, ...) ends the process and is logged by the kernel.
void enter_sandbox(const std::string& store_folder);

}  // namespace mhv::worker
