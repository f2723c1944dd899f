// The tap swap: everything a running guest sends goes through the engine, or nowhere.
//
//   before                after
//
//   QEMU                  QEMU            engine (PacketPath)
//    |                     |               |
//    |                     |              eq0 <-- drops what nobody reads
//    |                ---- | ------------- | ------------- namespace of the guest, <run-dir>/netns/TAP
//    |                    TAP --redirect--> eq0 --redirect--> up0
//    |                     ^------------------redirect-------- |
//   ---- host --------------------------------------------- | -------
//   TAP                                                     TAP (veth: its name, MTU and place in the switch)
//    |                                                       |
//   bridge or Open vSwitch                                  bridge or Open vSwitch
//
// QEMU's descriptor works on wherever its tap is. With `inbound`, what comes from up0 goes by a second tap, eq1, as well.
//
// STATES, told by what is there and by nothing else, so that a process that was killed is followed by any other:
//   0 plain       no namespace of that name
//   1 prepared    namespace; up0 and its outer end, which is called mhvN, and up once it is a port with all of the tap's settings
//   2 moved       the tap is in the namespace; the outer end is still called mhvN
//   3 swapped     the outer end has the tap's name
// interpose() goes upwards from any of them and undo() downwards; each step looks first whether it is done. An outer end that is up
// has the tap's place in the bridge, so nothing has to be written down to find the way back.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "net/namespaces.h"
#include "net/route.h"
#include "net/switch.h"

namespace mhv::net {

// One thread at a time for one tap. Works in the calling thread's network namespace.
class TapSwap {
 public:
  // Both have to outlive this. `before_change` is called before every single change: where a test ends the process.
  TapSwap(const Namespaces& namespaces, Switch& ovs, std::function<void()> before_change = {});

  // The engine's descriptors, non-blocking, for packets with a virtio_net_hdr before them: eq0, and eq1 when `inbound`. Throws
  // kBusy when another process holds them, kUnsupported when the tap is plugged in nowhere or the kernel lacks something. A swap that
  // fails is undone, unless it was begun by somebody else.
  std::vector<Fd> interpose(const std::string& tap, bool inbound = false);

  // The tap is back where it was, when it is still there. Nothing happens when it never went.
  void undo(const std::string& tap);

 private:
  struct Ends {
    Link tap;
    Link up;     // inside
    Link outer;  // in the host
  };

  void check_plugged(const std::string& tap);
  std::vector<Fd> complete(const std::string& tap, Namespaces::Inside inside, bool inbound);
  Ends prepare(const std::string& tap, RouteSocket& host, RouteSocket& within, int engine, int host_net);
  static void wait_for_way_out(const Ends& ends, RouteSocket& host, RouteSocket& within);
  void connect(const Ends& ends, RouteSocket& host, RouteSocket& within, int engine, int engine_inbound);
  Link engine_tap(RouteSocket& within, int tun, const char* name);
  void put_back(const std::string& tap, RouteSocket& host, RouteSocket& within, std::optional<Link> outer);
  void changing() const;

  const Namespaces& namespaces_;
  Switch& ovs_;
  const std::function<void()> before_change_;
};

// Whether a link's name is fit to be a file's as well, and none of ours. Pure.
bool is_tap_name(const std::string& name);

}  // namespace mhv::net
