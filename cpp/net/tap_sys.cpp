#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <cstring>

#include "base/error.h"
#include "net/tap.h"

namespace mhv::net {
namespace {

// What a reader of ours takes whole: everything QEMU's tap does. The kernel segments what is not listed.
constexpr unsigned kTcpOffloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
constexpr unsigned kUdpOffloads = 0x20 | 0x40;  // TUN_F_USO4 | TUN_F_USO6, Linux 6.2

}  // namespace

std::optional<TapFacts> tap_behind(int fd) {
  ifreq request{};
  if (::ioctl(fd, TUNGETIFF, &request) != 0 || (request.ifr_flags & IFF_TAP) == 0) return std::nullopt;
  TapFacts facts;
  facts.name.assign(request.ifr_name, ::strnlen(request.ifr_name, sizeof request.ifr_name));
  facts.net = Fd::own(::ioctl(fd, TUNGETDEVNETNS));
  if (!facts.net) throw_errno("cannot tell the network namespace of " + facts.name);
  return facts;
}

bool same_namespace(int a, int b) {
  struct stat one {};
  struct stat other {};
  if (::fstat(a, &one) != 0 || ::fstat(b, &other) != 0) throw_errno("cannot look at a network namespace");
  return one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

void attach_tap(int tun, const std::string& name) {
  ifreq request{};
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  std::memcpy(request.ifr_name, name.data(), name.size());
  if (::ioctl(tun, TUNSETIFF, &request) != 0) {
    if (errno == EBUSY) throw Error(Code::kBusy, "another process holds the engine's tap " + name, "end that worker first");
    throw_errno("cannot attach to the engine's tap " + name);
  }
  if (::ioctl(tun, TUNSETPERSIST, 1) != 0) throw_errno("cannot keep the engine's tap");
  if (::ioctl(tun, TUNSETOFFLOAD, kTcpOffloads | kUdpOffloads) != 0 && ::ioctl(tun, TUNSETOFFLOAD, kTcpOffloads) != 0) {
    throw_errno("cannot set the offloads of the engine's tap");
  }
  if (::fcntl(tun, F_SETFL, O_RDWR | O_NONBLOCK) != 0) throw_errno("cannot make the engine's tap non-blocking");
}

}  // namespace mhv::net
