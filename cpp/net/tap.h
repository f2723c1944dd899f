// Descriptors of /dev/net/tun.
#pragma once

#include <optional>
#include <string>

#include "base/fd.h"

namespace mhv::net {

// What a tun descriptor is attached to now, wherever it was moved and whatever it was renamed to.
struct TapFacts {
  std::string name;
  Fd net;  // the namespace that it is in
};

// nullopt: `fd` is attached to no tap.
std::optional<TapFacts> tap_behind(int fd);

bool same_namespace(int a, int b);

// Attaches `tun`, a /dev/net/tun that was opened in the namespace, to the tap `name`, which is made when it is not there, and stays
// when it is closed. Packets have a virtio_net_hdr before them and come unsegmented. Throws kBusy when another has it.
void attach_tap(int tun, const std::string& name);

}  // namespace mhv::net
