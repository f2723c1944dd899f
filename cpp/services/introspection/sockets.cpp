#include "introspection/sockets.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>

namespace mhv::introspection {
namespace {

static_assert(std::endian::native == std::endian::little);  // as the guest

constexpr std::uint16_t kSocketBits = 0xc000, kModeBits = 0xf000;
constexpr std::uint16_t kUnix = 1, kIpv4 = 2, kIpv6 = 10, kNetlink = 16, kPacket = 17;
constexpr std::size_t kUnixNameBytesMax = 108;

template <std::size_t N>
std::string name_or_number(const std::array<std::pair<unsigned, std::string_view>, N>& names, unsigned number, std::string_view prefix) {
  const auto known = std::ranges::find(names, number, &std::pair<unsigned, std::string_view>::first);
  return known != names.end() ? std::string(known->second) : fmt::format("{}{}", prefix, number);
}

std::string family_name(std::uint16_t family) {
  constexpr std::array<std::pair<unsigned, std::string_view>, 5> kNames{
      {{kUnix, "unix"}, {kIpv4, "ipv4"}, {kIpv6, "ipv6"}, {kNetlink, "netlink"}, {kPacket, "packet"}}};
  return name_or_number(kNames, family, "family-");
}

std::string type_name(std::uint16_t type) {
  constexpr std::array<std::pair<unsigned, std::string_view>, 4> kNames{{{1, "stream"}, {2, "datagram"}, {3, "raw"}, {5, "seqpacket"}}};
  return name_or_number(kNames, type, "type-");
}

std::string protocol_name(std::uint16_t family, std::uint16_t protocol) {
  constexpr std::array<std::pair<unsigned, std::string_view>, 7> kInternet{
      {{1, "icmp"}, {6, "tcp"}, {17, "udp"}, {58, "icmpv6"}, {132, "sctp"}, {136, "udplite"}, {262, "mptcp"}}};
  constexpr std::array<std::pair<unsigned, std::string_view>, 8> kNetlinks{
      {{0, "route"}, {4, "sock_diag"}, {6, "xfrm"}, {9, "audit"}, {11, "connector"}, {12, "netfilter"}, {15, "uevent"}, {16, "generic"}}};
  if (family == kNetlink) return name_or_number(kNetlinks, protocol, "");
  return family == kIpv4 || family == kIpv6 ? name_or_number(kInternet, protocol, "") : std::to_string(protocol);
}

// TCP's states (include/net/tcp_states.h), which other families use as well.
std::string_view state_name(std::uint8_t state, bool is_stream) {
  constexpr std::array<std::string_view, 13> kNames{"unknown",   "established", "syn_sent",    "syn_received", "fin_wait1",
                                                    "fin_wait2", "time_wait",   "closed",      "close_wait",   "last_ack",
                                                    "listen",    "closing",     "new_syn_recv"};
  constexpr std::uint8_t kClosed = 7;
  if (state == kClosed && !is_stream) return "unconnected";
  return state < kNames.size() ? kNames[state] : kNames[0];
}

template <typename T>
std::string address(int family, const T& bytes) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  inet_ntop(family, &bytes, text.data(), text.size());
  return text.data();
}

std::optional<std::uint32_t> maybe(const Kernel& kernel, std::string_view structure, std::string_view member) {
  const auto field = kernel.types().field(structure, member);
  return field ? std::optional(field->offset) : std::nullopt;
}

}  // namespace

Sockets::Sockets(const Kernel& kernel)
    : kernel_(kernel),
      processes_(kernel),
      files_(kernel),
      private_data_(kernel.offset("file", "private_data")),
      file_(kernel.offset("socket", "file")),
      type_(kernel.offset("socket", "type")),
      sock_(kernel.offset("socket", "sk")),
      family_(kernel.offset("sock", "__sk_common.skc_family")),
      state_(kernel.offset("sock", "__sk_common.skc_state")),
      protocol_(kernel.offset("sock", "sk_protocol")),
      local_port_(kernel.offset("sock", "__sk_common.skc_num")),
      remote_port_(kernel.offset("sock", "__sk_common.skc_dport")),
      local4_(kernel.offset("sock", "__sk_common.skc_rcv_saddr")),
      remote4_(kernel.offset("sock", "__sk_common.skc_daddr")),
      local6_(maybe(kernel, "sock", "__sk_common.skc_v6_rcv_saddr")),
      remote6_(maybe(kernel, "sock", "__sk_common.skc_v6_daddr")),
      unix_address_(maybe(kernel, "unix_sock", "addr")),
      unix_peer_(maybe(kernel, "unix_sock", "peer")),
      unix_length_(maybe(kernel, "unix_address", "len")),
      unix_name_(maybe(kernel, "unix_address", "name")),
      netlink_port_(maybe(kernel, "netlink_sock", "portid")),
      netlink_peer_(maybe(kernel, "netlink_sock", "dst_portid")),
      packet_interface_(maybe(kernel, "packet_sock", "ifindex")),
      packet_protocol_(maybe(kernel, "packet_sock", "num")) {}

void Sockets::read_internet(Walk& walk, bool six, Socket& out) const {
  out.local_port = walk.get<std::uint16_t>(out.structure + local_port_);
  out.remote_port = ntohs(walk.get<std::uint16_t>(out.structure + remote_port_));
  if (six) {
    if (!local6_ || !remote6_) return;
    out.local = address(AF_INET6, walk.get<in6_addr>(out.structure + *local6_));
    out.remote = address(AF_INET6, walk.get<in6_addr>(out.structure + *remote6_));
  } else {
    out.local = address(AF_INET, walk.get<in_addr>(out.structure + local4_));
    out.remote = address(AF_INET, walk.get<in_addr>(out.structure + remote4_));
  }
}

std::string Sockets::unix_name(Walk& walk, GuestVirt sock) const {
  if (!unix_address_ || !unix_length_ || !unix_name_) return {};
  const auto at = walk.get<GuestVirt>(sock + *unix_address_);
  if (at.value == 0) return {};
  const auto length = walk.get<std::uint32_t>(at + *unix_length_);
  const GuestVirt path = at + *unix_name_ + sizeof(std::uint16_t);  // behind its family
  if (length <= sizeof(std::uint16_t)) return {};
  const std::size_t bytes = std::min<std::size_t>(length - sizeof(std::uint16_t), kUnixNameBytesMax);
  if (walk.get<char>(path) != '\0') return walk.text(path, bytes);
  std::string name(bytes, '\0');  // an abstract one, which may have zeros in it
  walk.read(path, std::as_writable_bytes(std::span(name)));
  std::ranges::replace(name, '\0', '@');
  return name;
}

void Sockets::read_unix(Walk& walk, Socket& out) const {
  out.local = unix_name(walk, out.structure);
  if (!unix_peer_) return;
  const auto peer = walk.get<GuestVirt>(out.structure + *unix_peer_);
  if (peer.value != 0) out.remote = unix_name(walk, peer);
}

void Sockets::read_netlink(Walk& walk, Socket& out) const {
  if (netlink_port_) out.local = std::to_string(walk.get<std::uint32_t>(out.structure + *netlink_port_));
  if (netlink_peer_) out.remote = std::to_string(walk.get<std::uint32_t>(out.structure + *netlink_peer_));
}

void Sockets::read_packet(Walk& walk, Socket& out) const {
  if (packet_protocol_) out.protocol = fmt::format("{:#06x}", ntohs(walk.get<std::uint16_t>(out.structure + *packet_protocol_)));
  if (!packet_interface_) return;
  const auto interface = walk.get<std::uint32_t>(out.structure + *packet_interface_);
  out.local = interface == 0 ? "any" : fmt::format("if-{}", interface);
}

Socket Sockets::read(Walk& walk, unsigned fd, GuestVirt file) const {
  const auto socket = walk.get<GuestVirt>(file + private_data_);
  if (walk.get<GuestVirt>(socket + file_) != file) throw Torn();
  Socket out;
  out.fd = fd;
  out.inode = files_.inode(walk, file);
  out.structure = walk.get<GuestVirt>(socket + sock_);
  const auto type = walk.get<std::uint16_t>(socket + type_), family = walk.get<std::uint16_t>(out.structure + family_);
  out.type = type_name(type);
  out.family = family_name(family);
  out.protocol = protocol_name(family, walk.get<std::uint16_t>(out.structure + protocol_));
  out.state = state_name(walk.get<std::uint8_t>(out.structure + state_), out.type == "stream");
  if (family == kIpv4 || family == kIpv6) read_internet(walk, family == kIpv6, out);
  if (family == kUnix) read_unix(walk, out);
  if (family == kNetlink) read_netlink(walk, out);
  if (family == kPacket) read_packet(walk, out);
  return out;
}

std::vector<OfProcess<Socket>> Sockets::list(std::optional<std::int32_t> pid) const {
  return each_process(kernel_, processes_, pid, [this](Walk& walk, const Process& process) {
    std::vector<Socket> out;
    for (const Files::Open& one : files_.open(walk, process)) {
      if ((files_.mode(walk, one.file) & kModeBits) == kSocketBits) out.push_back(read(walk, one.fd, one.file));
    }
    return out;
  });
}

}  // namespace mhv::introspection
