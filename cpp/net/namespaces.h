// Network namespaces that outlive whoever made them.
//
// Each is bound at <folder>/<name>, as ip-netns(8) does it: nothing else would keep a namespace, and with it the tap of a running
// guest, while neither the engine nor the privileged part is there. The folder has to stand in a mount namespace that outlives
// this process (no PrivateTmp= and the like in its unit).
#pragma once

#include <optional>
#include <string>

#include "base/fd.h"

namespace mhv::net {

// Needs CAP_SYS_ADMIN and CAP_NET_ADMIN. Thread-safe for different names. No thread but a short-lived one enters a namespace.
class Namespaces {
 public:
  // What was opened inside: works there from anywhere.
  struct Inside {
    Fd net;
    Fd netlink;  // rtnetlink
    Fd tun;      // /dev/net/tun
  };

  // Makes the folder, for root alone. Throws kPermission when it belongs to another user.
  explicit Namespaces(const std::string& folder);

  std::optional<Inside> find(const std::string& name) const;
  // A new one, with IPv6 off so that it says nothing of its own.
  Inside make(const std::string& name) const;
  // It ends, with all that is in it, when the last descriptor of it is closed. Nothing happens when there is none.
  void remove(const std::string& name) const;

 private:
  std::string path(const std::string& name) const;
  Fd folder_;
};

// The calling thread's own.
Fd own_namespace();

}  // namespace mhv::net
