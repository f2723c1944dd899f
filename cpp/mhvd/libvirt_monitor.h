// QEMU's monitor as libvirt hands it through: for guests without one of their own. 1.5 to 3 ms a command.
#pragma once

#include <memory>
#include <string>

#include "mhvd/libvirt_session.h"
#include "mhvd/qmp_bridge.h"

namespace mhv::mhvd {

// A bridge whose commands go through libvirt; events of the guest come back through it. The session outlives it.
// While libvirtd is away, commands that can be repeated wait up to 30 s for it: a guest that was stopped gets its `cont`.
class LibvirtBridge {
 public:
  LibvirtBridge(LibvirtSession& session, const std::string& uuid);
  ~LibvirtBridge();
  Fd take_worker_end() { return bridge_->take_worker_end(); }
  bool ended() const { return bridge_->ended(); }

  struct Sink;  // where libvirt's event thread finds the bridge

 private:
  std::shared_ptr<Sink> sink_;
  std::unique_ptr<QmpBridge> bridge_;
};

// Commands whose effect is the same when they are executed twice. Pure.
bool repeatable(const std::string& command_json);

}  // namespace mhv::mhvd
