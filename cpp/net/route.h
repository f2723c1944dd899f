// Links and ingress redirects of one network namespace, by rtnetlink.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"

struct nlmsghdr;

namespace mhv::net {

using MacAddress = std::array<std::uint8_t, 6>;

// One setting of a bridge port (IFLA_BRPORT_*), as the kernel gave it.
using PortSetting = std::pair<std::uint16_t, std::vector<std::uint8_t>>;

struct Link {
  int index = 0;
  std::string name;
  std::string kind;         // "tun", "veth", "bridge"; "" for hardware
  int master = 0;           // 0: none
  std::string master_kind;  // "bridge", "openvswitch"
  std::uint32_t mtu = 0;
  std::uint32_t queue = 0;  // txqueuelen
  MacAddress address{};
  bool up = false;
  bool passing = false;           // it has a carrier, and the kernel has come round to that: what is sent on it is not dropped
  int peer = 0;                   // a veth's other end: its index in its own namespace
  bool filters_vlans = false;     // a bridge
  std::vector<PortSetting> port;  // those of a bridge port that another port may be given
};

struct LinkChange {
  std::optional<std::string> name = {};  // "mhv%d": the kernel picks the number
  std::optional<bool> up = {};
  std::optional<int> master = {};
  std::optional<std::uint32_t> mtu = {};
  std::optional<std::uint32_t> queue = {};
  std::optional<int> net = {};  // descriptor of the namespace to move to
  const std::vector<PortSetting>* port = nullptr;
};

// One thread at a time. Every call throws Error; a link that is not there is kNotFound, where it is not nullopt.
class RouteSocket {
 public:
  // `netlink` belongs to the namespace it was opened in, whoever uses it. `before_change` is called before each request that
  // changes something: where a test ends the process.
  explicit RouteSocket(Fd netlink, std::function<void()> before_change = {});
  // Of the calling thread's namespace.
  static RouteSocket here(std::function<void()> before_change = {});

  std::optional<Link> find(const std::string& name);
  std::optional<Link> find(int index);

  // All of one change or nothing of it, but for a name or a namespace that comes before what fails.
  void change(int index, const LinkChange& change);
  // A veth: `inner` in this namespace, the other end as "mhv%d" in `outer_net`. Both are down.
  void add_veth(const std::string& inner, int outer_net, const MacAddress& outer_address, std::uint32_t mtu, std::uint32_t outer_queue);
  void remove(int index);
  // Every packet that comes in at `from` leaves by `to` and goes nowhere else. Replaces a redirect that is there, without a gap.
  void redirect_all(int from, int to);
  // What is sent on the link is at its driver when the sender goes on, and never with another processor.
  void send_unqueued(int index);

 private:
  std::optional<Link> get(nlmsghdr* request);
  void carry_out(nlmsghdr* request, const std::string& what, int ignored_error = 0);
  int exchange(nlmsghdr* request, Link* link);

  Fd socket_;
  std::function<void()> before_change_;
  std::uint32_t sequence_ = 0;
};

}  // namespace mhv::net
