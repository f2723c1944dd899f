// A layer's process, in a place where there is nothing but what it was given.
//
//   mhv-jail              the caller's user; waits, passes the output on; whoever ends it ends all of it
//     └─ init             pid 1 of new namespaces (user, mount, pid, network, ipc, uts, cgroup); reaps
//          └─ the layer   one subordinate user, no capabilities, a read-only root, Landlock, seccomp, limits
//
// INVARIANT: when mhv-jail ends, however it does, nothing of the layer is left: init is killed with it, and the kernel kills all
// processes of a pid namespace with its init. When the process that started mhv-jail ends, mhv-jail does.
#pragma once

#include "jail/options.h"

namespace mhv::jail {

// Exit status of mhv-jail when the layer was not run.
inline constexpr int kNotRun = 125;

// Runs the layer to its end, with descriptors kFirstDescriptor to kFirstDescriptor + options.descriptors - 1 and no other; its input is
// empty, its output goes to this process's log. Returns its exit status, or 128 and the signal that ended it. Throws when an isolation that
// was asked for cannot be had: a layer is never run with less. Call it while the process has one thread.
int run(const Options& options);

}  // namespace mhv::jail
