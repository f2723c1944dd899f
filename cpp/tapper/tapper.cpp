#include "tapper/tapper.h"

#include <fmt/format.h>

#include "base/error.h"
#include "broker/process.h"
#include "mhv.pb.h"
#include "net/route.h"
#include "net/tap.h"
#include "net/tap_swap.h"

namespace mhv::tapper {
namespace {

constexpr std::size_t kNameMax = 15;

// A name may stand for another tap in each namespace: only QEMU's own descriptor says which one it has.
bool has_tap(const broker::QemuProcess& process, const std::string& tap, const net::Namespaces& namespaces) {
  const Fd here = net::own_namespace();
  const std::optional<net::Namespaces::Inside> inside = namespaces.find(tap);
  for (const int number : process.find_fds("/dev/net/tun")) {
    const std::optional<net::TapFacts> facts = net::tap_behind(process.copy_fd(number).get());
    if (!facts || facts->name != tap) continue;
    if (net::same_namespace(facts->net.get(), here.get())) return true;
    if (inside && net::same_namespace(facts->net.get(), inside->net.get())) return true;
  }
  return false;
}

// Unplugged: QEMU has closed it, and what is left stands in its place.
bool is_gone(const std::string& tap, const net::Namespaces& namespaces) {
  const std::optional<net::Link> here = net::RouteSocket::here().find(tap);
  if (here && here->kind == "tun") return false;
  std::optional<net::Namespaces::Inside> inside = namespaces.find(tap);
  return !inside || !net::RouteSocket(std::move(inside->netlink)).find(tap);
}

void check_name(const std::string& tap) {
  if (!net::is_tap_name(tap)) throw Error(Code::kInvalid, "not a tap's name");
}

[[noreturn]] void throw_foreign(int pid, const std::string& tap) {
  throw Error(Code::kPermission, fmt::format("process {} has no tap {} in this host's network", pid, tap), "name the guest's own tap");
}

}  // namespace

Answers::Answers(const std::string& run_dir, const std::string& ovs_socket) : namespaces_(run_dir + "/netns"), ovs_(ovs_socket) {}

std::vector<Fd> Answers::interpose(int pid, std::uint64_t start_time, const std::string& tap, bool inbound) {
  check_name(tap);
  const std::lock_guard lock(swapping_);
  if (!has_tap(broker::QemuProcess(pid, start_time), tap, namespaces_)) throw_foreign(pid, tap);
  return net::TapSwap(namespaces_, ovs_).interpose(tap, inbound);
}

void Answers::undo(int pid, std::uint64_t start_time, const std::string& tap) {
  check_name(tap);
  const std::lock_guard lock(swapping_);
  try {
    if (!has_tap(broker::QemuProcess(pid, start_time), tap, namespaces_) && !is_gone(tap, namespaces_)) throw_foreign(pid, tap);
  } catch (const Error& e) {
    if (e.code() != Code::kGone) throw;  // what an ended guest left is nobody's
  }
  net::TapSwap(namespaces_, ovs_).undo(tap);
}

std::vector<Fd> Answers::operator()(const protocol::BrokerRequest& request, protocol::BrokerReply*, std::string* what) {
  using Body = protocol::BrokerRequest::BodyCase;
  switch (request.body_case()) {
    case Body::kPing: *what = "ping"; return {};
    case Body::kInterpose: {
      const auto& body = request.interpose();
      *what = fmt::format("interpose at tap {:.{}} of process {}", body.tap(), kNameMax, body.process().pid());
      return interpose(body.process().pid(), body.process().start_time(), body.tap(), body.inbound());
    }
    case Body::kUndoInterpose: {
      const auto& body = request.undo_interpose();
      *what = fmt::format("undo at tap {:.{}} of process {}", body.tap(), kNameMax, body.process().pid());
      undo(body.process().pid(), body.process().start_time(), body.tap());
      return {};
    }
    default: break;
  }
  throw Error(Code::kInvalid, "this mhv-tapper does not know the request", "run the same release of nova-mhv everywhere");
}

}  // namespace mhv::tapper
