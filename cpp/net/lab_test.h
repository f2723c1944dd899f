// A host's network of the test's own: a bridge, a tap whose "guest" is the test, and an outside world at the bridge's other port.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/fd.h"
#include "net/packet_path.h"

namespace mhv::net::testing {

inline constexpr int kSoonMs = 10'000;  // what comes, comes within this

// Moves the whole test program into network and mount namespaces of its own: all links and mounts end with it, however it ends.
// Call it with one thread running. Returns why it could not; "" when it did.
inline const std::string& enter_lab() {
  static const std::string obstacle = []() -> std::string {
    if (::geteuid() != 0) return "needs root: it makes links";
    if (::access("/dev/net/tun", R_OK | W_OK) != 0) return "needs /dev/net/tun";
    if (std::system("command -v ip >/dev/null && command -v nsenter >/dev/null") != 0)
      return "needs ip and nsenter: the packages iproute2 and util-linux";
    if (::unshare(CLONE_NEWNET | CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
      return std::string("needs namespaces of its own: ") + std::strerror(errno);
    }
    // IPv6 would talk on every link. A kernel without it has no such file.
    if (std::system("f=/proc/sys/net/ipv6/conf/default/disable_ipv6; ip link set lo up && { [ ! -e $f ] || echo 1 >$f; }") != 0) {
      return "needs to set links up in a namespace of its own";
    }
    return {};
  }();
  return obstacle;
}

inline void sh(const std::string& command) {
  if (std::system(command.c_str()) != 0) throw std::runtime_error("failed: " + command);
}

inline std::string output_of(const std::string& command) {
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("popen");
  std::string text;
  std::array<char, 4096> part;
  while (const std::size_t n = std::fread(part.data(), 1, part.size(), pipe)) text.append(part.data(), n);
  ::pclose(pipe);
  return text;
}

inline bool readable(int fd, int ms) {
  pollfd poll_for{fd, POLLIN, 0};
  return ::poll(&poll_for, 1, ms) > 0;
}

// IFF_UP, IFF_RUNNING and so on as they stand, in the namespace of `socket`. rtnetlink would have the kernel come round to a new
// carrier first.
inline int flags_of(int socket, const std::string& link) {
  ifreq request{};
  link.copy(request.ifr_name, sizeof request.ifr_name - 1);
  return ::ioctl(socket, SIOCGIFFLAGS, &request) == 0 ? request.ifr_flags : 0;
}

// Runs `work` in a process that kills itself before its `change`th change to anything. True: it got to the end.
inline bool killed_at(int change, const std::function<void(std::function<void()>)>& work) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    int left = change;
    try {
      work([&left] {
        if (left-- == 0) ::kill(::getpid(), SIGKILL);
      });
    } catch (const std::exception& e) {
      std::fprintf(stderr, "%s\n", e.what());
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
  return WIFEXITED(status);
}

// Frames of an EtherType for experiments, which carry a number.
inline constexpr std::uint16_t kEtherType = 0x88b5;
using Frame = std::vector<std::uint8_t>;

inline Frame frame_of(std::uint32_t number, bool from_guest) {
  Frame frame(60, 0);
  const std::array<std::uint8_t, 6> guest = {0x52, 0x54, 0, 0, 0, 1};
  const std::array<std::uint8_t, 6> outside = {0x52, 0x54, 0, 0, 0, 2};
  std::memcpy(frame.data(), from_guest ? outside.data() : guest.data(), 6);
  std::memcpy(frame.data() + 6, from_guest ? guest.data() : outside.data(), 6);
  frame[12] = kEtherType >> 8;
  frame[13] = kEtherType & 0xff;
  std::memcpy(frame.data() + 14, &number, sizeof number);
  return frame;
}

// nullopt: another frame, or nothing within `ms`.
inline std::optional<std::uint32_t> number_in(const std::uint8_t* frame, std::size_t size) {
  if (size < 18 || frame[12] != kEtherType >> 8 || frame[13] != (kEtherType & 0xff)) return std::nullopt;
  std::uint32_t number = 0;
  std::memcpy(&number, frame + 14, sizeof number);
  return number;
}

// QEMU's side of a tap.
class GuestTap {
 public:
  explicit GuestTap(const std::string& name) : fd_(Fd::open("/dev/net/tun", O_RDWR | O_NONBLOCK)) {
    ifreq request{};
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    std::memcpy(request.ifr_name, name.data(), name.size());
    if (::ioctl(fd_.get(), TUNSETIFF, &request) != 0) throw std::runtime_error("TUNSETIFF");
  }
  int fd() const { return fd_.get(); }
  bool send(std::uint32_t number) const {
    std::vector<std::uint8_t> packet(kPacketHeader, 0);
    const Frame frame = frame_of(number, true);
    packet.insert(packet.end(), frame.begin(), frame.end());
    return ::write(fd_.get(), packet.data(), packet.size()) == static_cast<ssize_t>(packet.size());
  }
  std::optional<std::uint32_t> receive(int ms = kSoonMs) const {
    std::array<std::uint8_t, kPacketMax> packet;
    while (readable(fd_.get(), ms)) {
      const ssize_t n = ::read(fd_.get(), packet.data(), packet.size());
      if (n <= static_cast<ssize_t>(kPacketHeader)) return std::nullopt;
      if (auto number = number_in(packet.data() + kPacketHeader, static_cast<std::size_t>(n) - kPacketHeader)) return number;
    }
    return std::nullopt;
  }

 private:
  Fd fd_;
};

// The far end of the network: sees every frame that the switch lets out.
class Outside {
 public:
  explicit Outside(const std::string& link) : fd_(Fd::own(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(kEtherType)))) {
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(kEtherType);
    address.sll_ifindex = static_cast<int>(::if_nametoindex(link.c_str()));
    if (!fd_ || ::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) throw std::runtime_error("AF_PACKET");
    const int bytes = 64 << 20;
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
    const int on = 1;
    ::setsockopt(fd_.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on);
  }
  bool send(std::uint32_t number) const {
    const Frame frame = frame_of(number, false);
    return ::send(fd_.get(), frame.data(), frame.size(), 0) == static_cast<ssize_t>(frame.size());
  }
  std::optional<std::uint32_t> receive(int ms = kSoonMs) const {
    std::array<std::uint8_t, 2048> frame;
    while (readable(fd_.get(), ms)) {
      const ssize_t n = ::recv(fd_.get(), frame.data(), frame.size(), 0);
      if (n < 0) return std::nullopt;
      if (auto number = number_in(frame.data(), static_cast<std::size_t>(n))) return number;
    }
    return std::nullopt;
  }

 private:
  Fd fd_;
};

class Folder {
 public:
  Folder() {
    std::string pattern = "/tmp/mhv-net-test-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = pattern;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace mhv::net::testing
