#include "broker/server.h"

#include <fcntl.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "base/error.h"
#include "base/frame.h"
#include "mhv.pb.h"

namespace mhv::broker {
namespace {

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) throw Error(Code::kInvalid, "socket path is too long: " + path);
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// Removes what a broker that was killed left behind.
void remove_stale(const std::string& path, const sockaddr_un& address) {
  const Fd probe = Fd::own(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!probe) throw_errno("cannot create a socket");
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    throw Error(Code::kExists, "another process serves " + path, "stop it first, or give another --run-dir");
  }
  if (errno == ECONNREFUSED && ::unlink(path.c_str()) != 0) throw_errno("cannot remove " + path);
}

Fd listen_on(const std::string& path, gid_t group) {
  const sockaddr_un address = address_of(path);
  remove_stale(path, address);
  Fd listener = Fd::own(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener) throw_errno("cannot create a socket");
  const mode_t before = ::umask(0117);  // 0660 from the first moment on
  const int bound = ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  ::umask(before);
  if (bound != 0) throw_errno("cannot create " + path);
  // Not following links: the folder may belong to a less privileged user.
  if (::fchownat(AT_FDCWD, path.c_str(), 0, group, AT_SYMLINK_NOFOLLOW) != 0) throw_errno("cannot give " + path + " to its group");
  if (::listen(listener.get(), 16) != 0) throw_errno("cannot listen on " + path);
  return listener;
}

void set_error(protocol::BrokerReply* reply, Code code, const std::string& message, const std::string& hint) {
  reply->Clear();
  reply->mutable_error()->set_code(static_cast<std::uint32_t>(code));
  reply->mutable_error()->set_message(message);
  reply->mutable_error()->set_hint(hint);
}

void send_reply(int socket, const protocol::BrokerReply& reply, const std::vector<Fd>& fds) {
  std::vector<int> numbers;
  for (const Fd& fd : fds) numbers.push_back(fd.get());
  send_frame(socket, reply.SerializeAsString(), numbers);
}

}  // namespace

Server::Server(std::string path, uid_t user, gid_t group, Answer answer)
    : path_(std::move(path)), user_(user), answer_(std::move(answer)), listener_(listen_on(path_, group)) {}

Server::~Server() {
  for (Connection& connection : connections_) ::shutdown(connection.socket.get(), SHUT_RDWR);
  for (Connection& connection : connections_) connection.thread.join();
  ::unlink(path_.c_str());
}

void Server::run(int stop_fd) {
  for (;;) {
    std::array<pollfd, 2> poll_for{pollfd{listener_.get(), POLLIN, 0}, pollfd{stop_fd, POLLIN, 0}};
    if (::poll(poll_for.data(), poll_for.size(), -1) < 0) {
      if (errno == EINTR) continue;
      throw_errno("cannot wait for connections");
    }
    if (poll_for[1].revents != 0) return;
    if (poll_for[0].revents != 0) accept_one();
  }
}

void Server::forget_ended() {
  for (auto it = connections_.begin(); it != connections_.end();) {
    if (!it->ended) {
      ++it;
      continue;
    }
    it->thread.join();
    it = connections_.erase(it);
  }
}

void Server::accept_one() {
  Fd socket = Fd::own(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket) {
    if (errno == EMFILE || errno == ENFILE) spdlog::error("out of descriptors: a connection waits");
    return;  // the peer left again, or poll() will say so once more
  }
  forget_ended();
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || (peer.uid != 0 && peer.uid != user_)) {
    spdlog::warn("refused process {} of uid {}", peer.pid, peer.uid);
    return;
  }
  if (connections_.size() >= kConnectionsMax) {
    spdlog::warn("refused process {}: {} connections are open", peer.pid, connections_.size());
    return;
  }
  Connection& connection = connections_.emplace_back();
  connection.socket = std::move(socket);
  connection.peer = peer.pid;
  connection.thread = std::thread([this, &connection] {
    serve(connection);
    connection.ended = true;
  });
}

void Server::serve(Connection& connection) {
  const int socket = connection.socket.get();
  try {
    while (std::optional<Frame> frame = receive_frame(socket)) {
      protocol::BrokerRequest request;
      if (frame->payload.size() > kRequestBytesMax || !frame->fds.empty() || !request.ParseFromString(frame->payload)) {
        throw Error(Code::kInvalid, "not a broker request");
      }
      protocol::BrokerReply reply;
      std::vector<Fd> fds;
      std::string what = "unknown request";
      try {
        fds = answer_(request, &reply, &what);
        const bool frequent = request.has_ping() || request.has_keep_clock();
        spdlog::log(frequent ? spdlog::level::debug : spdlog::level::info, "peer {}: {}: done", connection.peer, what);
      } catch (const Error& e) {
        set_error(&reply, e.code(), e.what(), e.hint());
        spdlog::warn("peer {}: {}: {}: {}", connection.peer, what, code_name(e.code()), e.what());
      }
      send_reply(socket, reply, fds);
    }
  } catch (const std::exception& e) {
    spdlog::warn("peer {}: connection dropped: {}", connection.peer, e.what());
  }
  // Tells the peer now; the descriptor itself is closed when the connection is forgotten.
  ::shutdown(socket, SHUT_RDWR);
}

}  // namespace mhv::broker
