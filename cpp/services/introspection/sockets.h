// The sockets that the guest's processes have open. One that nobody has open any more (TIME_WAIT) is not among them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "introspection/files.h"

namespace mhv::introspection {

struct Socket {
  unsigned fd = 0;
  std::uint64_t inode = 0;
  std::string family;      // "ipv4", "ipv6", "unix", "netlink", "packet", or "family-N"
  std::string type;        // "stream", "datagram", "raw", "seqpacket", or "type-N"
  std::string protocol;    // "tcp", "udp", "icmp", of netlink "route", ..., or its number
  std::string_view state;  // "established", "listen", "closed", "unconnected" ...
  // Of IP: an address. Of unix: a path, "@name" of an abstract one, "" of one without a name. Of netlink: its port.
  // Of packet: "if-N", the number of its interface, or "any".
  std::string local, remote;
  std::optional<std::uint16_t> local_port, remote_port;  // of IP
  GuestVirt structure;                                   // its struct sock
};

// Thread-safe. The Kernel outlives it.
class Sockets {
 public:
  // Throws kUnsupported.
  explicit Sockets(const Kernel& kernel);

  // Of the process `pid`, or of all. Throws kBusy, kNotFound.
  std::vector<OfProcess<Socket>> list(std::optional<std::int32_t> pid) const;

 private:
  Socket read(Walk& walk, unsigned fd, GuestVirt file) const;
  void read_internet(Walk& walk, bool six, Socket& out) const;
  void read_unix(Walk& walk, Socket& out) const;
  std::string unix_name(Walk& walk, GuestVirt sock) const;
  void read_netlink(Walk& walk, Socket& out) const;
  void read_packet(Walk& walk, Socket& out) const;

  const Kernel& kernel_;
  Processes processes_;
  Files files_;
  std::uint32_t private_data_;                                 // in a struct file
  std::uint32_t file_, type_, sock_;                           // in a struct socket
  std::uint32_t family_, state_, protocol_;                    // in a struct sock
  std::uint32_t local_port_, remote_port_, local4_, remote4_;  // in a struct sock
  std::optional<std::uint32_t> local6_, remote6_;
  // Where the kernel was built with them.
  std::optional<std::uint32_t> unix_address_, unix_peer_, unix_length_, unix_name_;
  std::optional<std::uint32_t> netlink_port_, netlink_peer_;
  std::optional<std::uint32_t> packet_interface_, packet_protocol_;
};

}  // namespace mhv::introspection
