// One user inside: the layer's user namespace knows a single id, which is a subordinate one on the host.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace mhv::jail {

inline constexpr std::uint32_t kInnerId = 1000;

// From outside: maps kInnerId of the process's user namespace to `id`, user and group. Root writes the maps itself; another user
// has newuidmap and newgidmap do it, which look into /etc/subuid. Throws kPermission: `id` is not the caller's to give.
void map_identity(pid_t process, std::uint32_t id);

// From inside, once mapped: becomes kInnerId, member of no other group. Capabilities within the namespace stay.
void take_identity();

// No capability is left, and none can come back. The namespace must have been set up before.
void drop_capabilities();

}  // namespace mhv::jail
