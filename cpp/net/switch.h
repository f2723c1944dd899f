// A switch that a guest's tap is plugged into and that is not the kernel's own bridge.
#pragma once

#include <string>

namespace mhv::net {

class Switch {
 public:
  virtual ~Switch() = default;
  virtual bool has_port(const std::string& name) = 0;
  // Another device has the port's name now: the switch lets go of the one it has open and opens that one. All that is configured for
  // the port stays. `device` tells the new one from others for good (0: the guest's own tap); nothing happens where the switch
  // has opened that one already.
  virtual void reopen(const std::string& name, int device) = 0;
};

}  // namespace mhv::net
