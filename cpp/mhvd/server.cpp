#include "mhvd/server.h"

#include <grp.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/frame.h"
#include "mhvd/request_check.h"

namespace mhv::mhvd {
namespace {

gid_t allowed_group() {
  const group* entry = ::getgrnam(kGroup);
  return entry == nullptr ? static_cast<gid_t>(-1) : entry->gr_gid;
}

protocol::Reply error_reply(const Error& error) {
  protocol::Reply reply;
  reply.mutable_error()->set_code(static_cast<std::uint32_t>(error.code()));
  reply.mutable_error()->set_message(error.what());
  reply.mutable_error()->set_hint(error.hint());
  return reply;
}

void send_reply(int socket, const protocol::Reply& reply) { send_frame(socket, reply.SerializeAsString()); }

Fd listen_on(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    throw Error(Code::kInvalid, "the socket path " + path + " is too long", "use a shorter --run-dir");
  std::memcpy(address.sun_path, path.data(), path.size());
  Fd fd = Fd::own(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) throw_errno("cannot make a socket");
  ::unlink(path.c_str());
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) throw_errno("cannot listen on " + path);
  // Who may speak is decided by the peer's credentials; the mode keeps everybody else from connecting at all.
  const gid_t group = allowed_group();
  if (group != static_cast<gid_t>(-1) && ::chown(path.c_str(), static_cast<uid_t>(-1), group) != 0) {
    spdlog::debug("{} stays with this process's group: {}", path, std::strerror(errno));
  }
  if (::chmod(path.c_str(), 0660) != 0 || ::listen(fd.get(), 64) != 0) throw_errno("cannot listen on " + path);
  return fd;
}

}  // namespace

Peer peer_of(const Fd& connection) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) throw_errno("cannot tell who connects");
  Peer peer{credentials.uid, credentials.gid, std::vector<gid_t>(64)};
  size = static_cast<socklen_t>(peer.groups.size() * sizeof(gid_t));
  int rc = ::getsockopt(connection.get(), SOL_SOCKET, SO_PEERGROUPS, peer.groups.data(), &size);
  if (rc != 0 && errno == ERANGE) {
    peer.groups.resize(size / sizeof(gid_t));
    rc = ::getsockopt(connection.get(), SOL_SOCKET, SO_PEERGROUPS, peer.groups.data(), &size);
  }
  peer.groups.resize(rc == 0 ? size / sizeof(gid_t) : 0);
  return peer;
}

bool may_speak(const Peer& peer, uid_t own, gid_t allowed) {
  if (peer.uid == 0 || peer.uid == own) return true;
  if (allowed == static_cast<gid_t>(-1)) return false;
  return peer.gid == allowed || std::find(peer.groups.begin(), peer.groups.end(), allowed) != peer.groups.end();
}

Server::Server(const std::string& path, Handler handler) : path_(path), handler_(std::move(handler)), listener_(listen_on(path)) {
  acceptor_ = std::thread([this] { accept_all(); });
}

Server::~Server() {
  stop();
  acceptor_.join();
  for (Connection& connection : connections_) connection.thread.join();
  ::unlink(path_.c_str());
}

void Server::stop() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  ::shutdown(listener_.get(), SHUT_RDWR);
  for (Connection& connection : connections_) ::shutdown(connection.socket.get(), SHUT_RDWR);
}

void Server::join_ended() {
  for (auto at = connections_.begin(); at != connections_.end();) {
    if (at->ended) {
      at->thread.join();
      at = connections_.erase(at);
    } else {
      ++at;
    }
  }
}

void Server::accept_all() {
  const gid_t group = allowed_group();
  for (;;) {
    Fd socket = Fd::own(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    if (!socket) {
      if (errno == EMFILE || errno == ENFILE) spdlog::error("cannot accept a connection: {}", std::strerror(errno));
      continue;
    }
    try {
      join_ended();
      if (!may_speak(peer_of(socket), ::geteuid(), group)) {
        send_reply(socket.get(),
                   error_reply(Error(Code::kPermission, "not permitted to use mhvd", "be root, or a member of the group nova-mhv")));
        continue;
      }
      if (connections_.size() >= kConnectionsMax) {
        send_reply(socket.get(),
                   error_reply(Error(Code::kBusy, "mhvd has " + std::to_string(kConnectionsMax) + " connections already", "try again")));
        continue;
      }
    } catch (const Error& error) {
      spdlog::debug("a connection was not served: {}", error.what());
      continue;
    }
    Connection& connection = connections_.emplace_back();
    connection.socket = std::move(socket);
    connection.thread = std::thread([this, &connection] { serve(connection); });
  }
}

void Server::serve(Connection& connection) {
  try {
    while (serve_one(connection.socket.get())) {
    }
  } catch (const std::exception& error) {
    spdlog::debug("a client went away: {}", error.what());
  }
  const std::lock_guard lock(mutex_);
  ::shutdown(connection.socket.get(), SHUT_RDWR);
  connection.ended = true;
}

// False: the connection is of no further use.
bool Server::serve_one(int socket) {
  protocol::Request request;
  std::vector<Fd> fds;
  try {
    std::optional<Frame> frame = receive_frame(socket);
    if (!frame) return false;
    request = parse_request(frame->payload);
    fds = std::move(frame->fds);
  } catch (const Error& error) {
    send_reply(socket, error_reply(error));
    return false;
  }
  protocol::Reply reply;
  try {
    check_request(request, fds.size());
    std::vector<int> numbers;
    for (const Fd& fd : fds) numbers.push_back(fd.get());
    reply = handler_(request, numbers, [&](const protocol::Reply& progress) {
      protocol::Reply out = progress;
      out.set_id(request.id());
      send_reply(socket, out);
    });
  } catch (const Error& error) {
    reply = error_reply(error);
  } catch (const std::exception& error) {
    spdlog::error("a request failed: {}", error.what());
    reply = error_reply(Error(Code::kInternal, error.what(), "mhvd's log says more"));
  }
  reply.set_id(request.id());
  send_reply(socket, reply);
  return true;
}

}  // namespace mhv::mhvd
