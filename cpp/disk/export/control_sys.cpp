#include <fcntl.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>

#include "base/error.h"
#include "base/frame.h"
#include "export/control.h"
#include "export/unix_socket.h"

namespace mhv::disk {
namespace {

constexpr std::size_t kConnectionsMax = 16;
constexpr int kBacklog = 16;
constexpr timeval kSlowPeer{.tv_sec = 5, .tv_usec = 0};  // a peer that stops in the middle of a frame holds up the others for so long

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) throw Error(Code::kInvalid, "a socket's path is too long: " + path);
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Fd new_socket() {
  Fd socket = Fd::own(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) throw_errno("cannot make a socket");
  return socket;
}

}  // namespace

Fd listen_at(const std::string& path) {
  const std::string beside = path + ".new";
  const sockaddr_un address = address_of(beside);
  Fd socket = new_socket();
  ::unlink(beside.c_str());
  // Before bind(): nobody else can connect in between.
  if (::fchmod(socket.get(), 0600) != 0) throw_errno("cannot protect a socket");
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) throw_errno("cannot make the socket " + path);
  if (::listen(socket.get(), kBacklog) != 0) throw_errno("cannot listen on " + path);
  // What can be seen can be connected to.
  if (::rename(beside.c_str(), path.c_str()) != 0) throw_errno("cannot put the socket in place at " + path);
  return socket;
}

ControlServer::ControlServer(Disk& disk, const std::string& path) : disk_(disk), listener_(listen_at(path)) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw_errno("cannot make a pipe");
  stop_read_ = Fd::own(ends[0]);
  stop_write_ = Fd::own(ends[1]);
  thread_ = std::thread([this] { run(); });
}

ControlServer::~ControlServer() {
  stop_write_.close();
  thread_.join();
}

// False: the connection is of no further use.
bool ControlServer::answer(const Fd& connection) {
  try {
    const auto frame = receive_frame(connection.get());
    if (!frame) return false;
    send_frame(connection.get(), serve(disk_, frame->payload).SerializeAsString());
    return true;
  } catch (const Error& error) {
    spdlog::warn("a connection to the disk's control socket is closed: {}", error.what());
    return false;
  }
}

void ControlServer::run() {
  for (;;) {
    std::vector<pollfd> waits{{stop_read_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
    for (const Fd& connection : connections_) waits.push_back({connection.get(), POLLIN, 0});
    if (::poll(waits.data(), waits.size(), -1) < 0) continue;
    if (waits[0].revents != 0) return;
    for (std::size_t i = waits.size(); i-- > 2;) {
      if (waits[i].revents != 0 && !answer(connections_[i - 2]))
        connections_.erase(connections_.begin() + static_cast<std::ptrdiff_t>(i - 2));
    }
    if (waits[1].revents == 0) continue;
    Fd connection = Fd::own(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!connection || connections_.size() >= kConnectionsMax) continue;
    ::setsockopt(connection.get(), SOL_SOCKET, SO_RCVTIMEO, &kSlowPeer, sizeof kSlowPeer);
    ::setsockopt(connection.get(), SOL_SOCKET, SO_SNDTIMEO, &kSlowPeer, sizeof kSlowPeer);
    connections_.push_back(std::move(connection));
  }
}

ControlClient::ControlClient(const std::string& path) : socket_(new_socket()) {
  const sockaddr_un address = address_of(path);
  if (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    throw Error(Code::kUnavailable, "no disk's export answers on " + path);
}

}  // namespace mhv::disk
