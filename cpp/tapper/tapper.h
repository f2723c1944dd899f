// mhv-tapper: puts the engine between a guest's tap and its switch, and takes it away again (net/tap_swap.h).
//
// A process of its own, for the sake of what the two may do. mhv-broker can change QEMU and has no network at all, nor anything it could
// mount; this one needs CAP_SYS_ADMIN for unshare, setns and the mount that keeps a namespace, and CAP_NET_ADMIN in the
// host's network, and cannot trace anybody: ptrace is not among its system calls, and pidfd_getfd is there to ask QEMU's own tun
// descriptor which tap it is. Of CAP_SYS_ADMIN its filter leaves those three calls with one fixed argument each.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "base/fd.h"
#include "broker/harden.h"
#include "net/namespaces.h"
#include "net/ovsdb.h"

namespace mhv::protocol {
class BrokerRequest;
class BrokerReply;
}  // namespace mhv::protocol

namespace mhv::tapper {

// Thread-safe: one swap at a time.
class Answers {
 public:
  explicit Answers(const std::string& run_dir, const std::string& ovs_socket);
  std::vector<Fd> operator()(const protocol::BrokerRequest& request, protocol::BrokerReply* reply, std::string* what);

 private:
  std::vector<Fd> interpose(int pid, std::uint64_t start_time, const std::string& tap, bool inbound);
  void undo(int pid, std::uint64_t start_time, const std::string& tap);

  const net::Namespaces namespaces_;
  net::OpenVSwitch ovs_;
  std::mutex swapping_;
};

broker::Needs needs();

}  // namespace mhv::tapper
