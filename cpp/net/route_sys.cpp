#include <arpa/inet.h>
#include <fmt/format.h>
#include <libmnl/libmnl.h>
#include <linux/if.h>
#include <linux/if_bridge.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>
#include <linux/veth.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "net/route.h"

namespace mhv::net {
namespace {

constexpr std::size_t kRequestMax = 4096;
constexpr std::size_t kReplyMax = 64u << 10;  // a link with all its statistics is about 2 KiB
constexpr std::uint32_t kIngressHandle = TC_H_MAKE(TC_H_INGRESS, 0);
constexpr std::uint32_t kFilterHandle = 0x80000800;  // the first key of u32's root table
constexpr std::uint16_t kPriority = 1;

// What makes a port treat traffic as another one does. Not its state, which is the bridge's, nor what can only be read.
constexpr std::array<std::uint16_t, 14> kPortSettings = {
    IFLA_BRPORT_PRIORITY,       IFLA_BRPORT_COST,        IFLA_BRPORT_MODE,     IFLA_BRPORT_GUARD,         IFLA_BRPORT_PROTECT,
    IFLA_BRPORT_FAST_LEAVE,     IFLA_BRPORT_LEARNING,    IFLA_BRPORT_PROXYARP, IFLA_BRPORT_UNICAST_FLOOD, IFLA_BRPORT_MCAST_FLOOD,
    IFLA_BRPORT_MCAST_TO_UCAST, IFLA_BRPORT_BCAST_FLOOD, IFLA_BRPORT_ISOLATED, IFLA_BRPORT_GROUP_FWD_MASK};

class Request {
 public:
  Request(std::uint16_t type, std::uint16_t flags) : header(mnl_nlmsg_put_header(buffer_.data())) {
    header->nlmsg_type = type;
    header->nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
  }
  ifinfomsg* link(int index = 0) {
    auto* info = static_cast<ifinfomsg*>(mnl_nlmsg_put_extra_header(header, sizeof(ifinfomsg)));
    info->ifi_family = AF_UNSPEC;
    info->ifi_index = index;
    return info;
  }
  tcmsg* traffic(int index) {
    auto* tc = static_cast<tcmsg*>(mnl_nlmsg_put_extra_header(header, sizeof(tcmsg)));
    tc->tcm_family = AF_UNSPEC;
    tc->tcm_ifindex = index;
    return tc;
  }
  void text(std::uint16_t type, const std::string& value) { mnl_attr_put_strz(header, type, value.c_str()); }
  void number(std::uint16_t type, std::uint32_t value) { mnl_attr_put_u32(header, type, value); }
  void bytes(std::uint16_t type, const void* data, std::size_t size) { mnl_attr_put(header, type, size, data); }
  template <typename Body>
  void nest(std::uint16_t type, const Body& body) {
    nlattr* begin = mnl_attr_nest_start(header, type);
    body();
    mnl_attr_nest_end(header, begin);
  }

 private:
  alignas(nlmsghdr) std::array<char, kRequestMax> buffer_{};

 public:
  nlmsghdr* const header;
};

template <typename Handle>
int for_each(const nlattr* attribute, void* handle) {
  (*static_cast<const Handle*>(handle))(attribute);
  return MNL_CB_OK;
}

template <typename Handle>
void for_each_nested(const nlattr* nest, const Handle& handle) {
  Handle copy = handle;
  mnl_attr_parse_nested(nest, &for_each<Handle>, &copy);
}

void read_port(const nlattr* data, Link* link) {
  for_each_nested(data, [link](const nlattr* a) {
    const std::uint16_t type = mnl_attr_get_type(a);
    if (std::find(kPortSettings.begin(), kPortSettings.end(), type) == kPortSettings.end()) return;
    const auto* bytes = static_cast<const std::uint8_t*>(mnl_attr_get_payload(a));
    link->port.emplace_back(type, std::vector<std::uint8_t>(bytes, bytes + mnl_attr_get_payload_len(a)));
  });
}

void read_kinds(const nlattr* info, Link* link) {
  const nlattr* data = nullptr;
  const nlattr* port = nullptr;
  for_each_nested(info, [&](const nlattr* a) {
    switch (mnl_attr_get_type(a)) {
      case IFLA_INFO_KIND: link->kind = mnl_attr_get_str(a); break;
      case IFLA_INFO_SLAVE_KIND: link->master_kind = mnl_attr_get_str(a); break;
      case IFLA_INFO_DATA: data = a; break;
      case IFLA_INFO_SLAVE_DATA: port = a; break;
      default: break;
    }
  });
  if (port != nullptr && link->master_kind == "bridge") read_port(port, link);
  if (data == nullptr || link->kind != "bridge") return;
  for_each_nested(data, [link](const nlattr* a) {
    if (mnl_attr_get_type(a) == IFLA_BR_VLAN_FILTERING) link->filters_vlans = mnl_attr_get_u8(a) != 0;
  });
}

void read_attribute(const nlattr* a, Link* link) {
  switch (mnl_attr_get_type(a)) {
    case IFLA_IFNAME: link->name = mnl_attr_get_str(a); break;
    case IFLA_MASTER: link->master = static_cast<int>(mnl_attr_get_u32(a)); break;
    case IFLA_MTU: link->mtu = mnl_attr_get_u32(a); break;
    case IFLA_OPERSTATE: link->passing = mnl_attr_get_u8(a) == IF_OPER_UP; break;
    case IFLA_TXQLEN: link->queue = mnl_attr_get_u32(a); break;
    case IFLA_LINK: link->peer = static_cast<int>(mnl_attr_get_u32(a)); break;
    case IFLA_LINKINFO: read_kinds(a, link); break;
    case IFLA_ADDRESS:
      if (mnl_attr_get_payload_len(a) == link->address.size()) {
        std::memcpy(link->address.data(), mnl_attr_get_payload(a), link->address.size());
      }
      break;
    default: break;
  }
}

void read_link(const nlmsghdr* message, Link* link) {
  const auto* info = static_cast<const ifinfomsg*>(mnl_nlmsg_get_payload(message));
  link->index = info->ifi_index;
  link->up = (info->ifi_flags & IFF_UP) != 0;
  auto handle = [link](const nlattr* a) { read_attribute(a, link); };
  mnl_attr_parse(message, sizeof *info, &for_each<decltype(handle)>, &handle);
}

// cls_u32 with a key that matches everything, as matchall does: every kernel with filters has it.
void put_redirect(Request& request, int to) {
  request.text(TCA_KIND, "u32");
  request.nest(TCA_OPTIONS, [&] {
    // A selector with its one key behind it.
    std::array<char, sizeof(tc_u32_sel) + sizeof(tc_u32_key)> all{};
    tc_u32_sel selector{};
    selector.nkeys = 1;
    selector.flags = TC_U32_TERMINAL;
    std::memcpy(all.data(), &selector, sizeof selector);
    request.bytes(TCA_U32_SEL, all.data(), all.size());
    request.nest(TCA_U32_ACT, [&] {
      request.nest(1, [&] {
        request.text(TCA_ACT_KIND, "mirred");
        request.nest(TCA_ACT_OPTIONS, [&] {
          tc_mirred redirect{};
          redirect.action = TC_ACT_STOLEN;
          redirect.eaction = TCA_EGRESS_REDIR;
          redirect.ifindex = static_cast<std::uint32_t>(to);
          request.bytes(TCA_MIRRED_PARMS, &redirect, sizeof redirect);
        });
      });
    });
  });
}

}  // namespace

RouteSocket::RouteSocket(Fd netlink, std::function<void()> before_change)
    : socket_(std::move(netlink)), before_change_(std::move(before_change)) {}

RouteSocket RouteSocket::here(std::function<void()> before_change) {
  Fd socket = Fd::own(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!socket) throw_errno("cannot open rtnetlink");
  return RouteSocket(std::move(socket), std::move(before_change));
}

std::optional<Link> RouteSocket::find(const std::string& name) {
  Request request(RTM_GETLINK, 0);
  request.link();
  request.text(IFLA_IFNAME, name);
  return get(request.header);
}

std::optional<Link> RouteSocket::find(int index) {
  Request request(RTM_GETLINK, 0);
  request.link(index);
  return get(request.header);
}

void RouteSocket::change(int index, const LinkChange& change) {
  Request request(RTM_NEWLINK, 0);
  ifinfomsg* info = request.link(index);
  if (change.up) {
    info->ifi_change = IFF_UP;
    info->ifi_flags = *change.up ? IFF_UP : 0;
  }
  if (change.name) request.text(IFLA_IFNAME, *change.name);
  if (change.master) request.number(IFLA_MASTER, static_cast<std::uint32_t>(*change.master));
  if (change.mtu) request.number(IFLA_MTU, *change.mtu);
  if (change.queue) request.number(IFLA_TXQLEN, *change.queue);
  if (change.net) request.number(IFLA_NET_NS_FD, static_cast<std::uint32_t>(*change.net));
  if (change.port != nullptr && !change.port->empty()) {
    request.nest(IFLA_LINKINFO, [&] {
      request.text(IFLA_INFO_SLAVE_KIND, "bridge");
      request.nest(IFLA_INFO_SLAVE_DATA, [&] {
        for (const auto& [type, value] : *change.port) request.bytes(type, value.data(), value.size());
      });
    });
  }
  carry_out(request.header, fmt::format("cannot change link {}", index));
}

void RouteSocket::add_veth(const std::string& inner, int outer_net, const MacAddress& outer_address, std::uint32_t mtu,
                           std::uint32_t outer_queue) {
  Request request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
  request.link();
  request.text(IFLA_IFNAME, inner);
  request.number(IFLA_MTU, mtu);
  request.nest(IFLA_LINKINFO, [&] {
    request.text(IFLA_INFO_KIND, "veth");
    request.nest(IFLA_INFO_DATA, [&] {
      request.nest(VETH_INFO_PEER, [&] {
        request.link();
        request.text(IFLA_IFNAME, "mhv%d");
        request.number(IFLA_NET_NS_FD, static_cast<std::uint32_t>(outer_net));
        request.bytes(IFLA_ADDRESS, outer_address.data(), outer_address.size());
        request.number(IFLA_MTU, mtu);
        request.number(IFLA_TXQLEN, outer_queue);
      });
    });
  });
  carry_out(request.header, "cannot make a veth for a tap");
}

void RouteSocket::remove(int index) {
  Request request(RTM_DELLINK, 0);
  request.link(index);
  carry_out(request.header, fmt::format("cannot remove link {}", index));
}

void RouteSocket::redirect_all(int from, int to) {
  Request queue(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL);
  tcmsg* ingress = queue.traffic(from);
  ingress->tcm_parent = TC_H_INGRESS;
  ingress->tcm_handle = kIngressHandle;
  queue.text(TCA_KIND, "ingress");
  carry_out(queue.header, fmt::format("cannot add an ingress queue to link {}", from), EEXIST);

  Request filter(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_REPLACE);
  tcmsg* tc = filter.traffic(from);
  tc->tcm_parent = kIngressHandle;
  tc->tcm_handle = kFilterHandle;
  tc->tcm_info = TC_H_MAKE(static_cast<std::uint32_t>(kPriority) << 16, htons(ETH_P_ALL));
  put_redirect(filter, to);
  carry_out(filter.header, fmt::format("cannot redirect link {}", from));
}

void RouteSocket::send_unqueued(int index) {
  Request request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE);
  request.traffic(index)->tcm_parent = TC_H_ROOT;
  request.text(TCA_KIND, "noqueue");
  carry_out(request.header, fmt::format("cannot take the queue from link {}", index));
}

std::optional<Link> RouteSocket::get(nlmsghdr* request) {
  Link link;
  const int error = exchange(request, &link);
  if (error == ENODEV) return std::nullopt;
  if (error != 0) throw_errno("cannot look at a link", error);
  return link;
}

void RouteSocket::carry_out(nlmsghdr* request, const std::string& what, int ignored_error) {
  if (before_change_) before_change_();
  request->nlmsg_flags |= NLM_F_ACK;
  const int error = exchange(request, nullptr);
  if (error == 0 || error == ignored_error) return;
  if (error == ENODEV) throw Error(Code::kNotFound, what + ": it is gone");
  if (error == ENOENT || error == EOPNOTSUPP) {
    throw Error(Code::kUnsupported, what + ": " + std::strerror(error),
                "the kernel needs sch_ingress, cls_u32, act_mirred, veth and tun, built in or as modules");
  }
  throw_errno(what, error);
}

// Sends, and reads until the answer to it; returns its errno, 0 for none.
int RouteSocket::exchange(nlmsghdr* request, Link* link) {
  request->nlmsg_seq = ++sequence_;
  sockaddr_nl kernel{};
  kernel.nl_family = AF_NETLINK;
  if (::sendto(socket_.get(), request, request->nlmsg_len, 0, reinterpret_cast<const sockaddr*>(&kernel), sizeof kernel) < 0) {
    throw_errno("cannot ask rtnetlink");
  }
  std::vector<char> reply(kReplyMax);
  for (;;) {
    const ssize_t n = ::recv(socket_.get(), reply.data(), reply.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("cannot hear from rtnetlink");
    int left = static_cast<int>(n);
    for (const auto* m = reinterpret_cast<const nlmsghdr*>(reply.data()); mnl_nlmsg_ok(m, left); m = mnl_nlmsg_next(m, &left)) {
      if (m->nlmsg_seq != sequence_) continue;
      if (m->nlmsg_type == NLMSG_ERROR) return -static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(m))->error;
      if (m->nlmsg_type != RTM_NEWLINK || link == nullptr) continue;
      read_link(m, link);
      return 0;
    }
  }
}

}  // namespace mhv::net
