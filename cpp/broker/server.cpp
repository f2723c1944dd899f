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
#include "broker/inject.h"
#include "broker/monitor.h"
#include "broker/process.h"
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
    throw Error(Code::kExists, "another mhv-broker serves " + path, "stop it first, or give another --run-dir");
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

QemuProcess named(const protocol::BrokerProcess& process) { return QemuProcess(process.pid(), process.start_time()); }

std::vector<Fd> one(Fd fd) {
  std::vector<Fd> fds;
  fds.push_back(std::move(fd));
  return fds;
}

std::vector<Fd> open_guest(const QemuProcess& process) {
  std::vector<Fd> fds;
  fds.push_back(process.pidfd().duplicate());
  fds.push_back(process.open("maps", O_RDONLY));
  fds.push_back(process.open("pagemap", O_RDONLY));
  fds.push_back(process.open("mem", O_RDWR));
  return fds;
}

Fd inject_and_take(const QemuProcess& process, int device_fd, protocol::BrokerReply* reply) {
  if (!is_uffd_device(process.copy_fd(device_fd).get())) {
    throw Error(Code::kPermission, fmt::format("descriptor {} of process {} is no /dev/userfaultfd", device_fd, process.pid()),
                "hand one to QEMU by add-fd first");
  }
  const Injection injection = inject_uffd(process, device_fd);
  Fd uffd = process.copy_uffd(injection.number);
  reply->set_uffd_fd(injection.number);
  reply->set_attempts(injection.attempts);
  return uffd;
}

std::string name_of(const char* what, const protocol::BrokerProcess& process) {
  return fmt::format("{} of process {}", what, process.pid());
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

Server::Server(std::string run_dir, uid_t user, gid_t group)
    : run_dir_(std::move(run_dir)), path_(run_dir_ + "/broker.sock"), user_(user), listener_(listen_on(path_, group)) {}

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
        fds = answer(request, &reply, &what);
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

std::vector<Fd> Server::answer(const protocol::BrokerRequest& request, protocol::BrokerReply* reply, std::string* what) {
  using Body = protocol::BrokerRequest::BodyCase;
  switch (request.body_case()) {
    case Body::kPing: *what = "ping"; return {};
    case Body::kUffdDevice: *what = "open /dev/userfaultfd"; return one(open_uffd_device());
    case Body::kOpenGuest:
      *what = name_of("open memory", request.open_guest().process());
      return open_guest(named(request.open_guest().process()));
    case Body::kOpenMapping: {
      const auto& body = request.open_mapping();
      *what = fmt::format("{} {:x}-{:x}", name_of("open mapping", body.process()), body.start(), body.end());
      return one(named(body.process()).open_mapping(body.start(), body.end(), body.read_only() ? O_RDONLY : O_RDWR));
    }
    case Body::kInjectUffd: {
      const auto& body = request.inject_uffd();
      *what = name_of("inject a userfaultfd into the memory", body.process());
      const std::lock_guard lock(injecting_);
      Fd uffd = inject_and_take(named(body.process()), body.device_fd(), reply);
      *what += fmt::format(" (descriptor {}, {} attempts)", reply->uffd_fd(), reply->attempts());
      return one(std::move(uffd));
    }
    case Body::kTakeUffd: {
      const auto& body = request.take_uffd();
      *what = fmt::format("{}, descriptor {}", name_of("take the userfaultfd", body.process()), body.uffd_fd());
      return one(named(body.process()).copy_uffd(body.uffd_fd()));
    }
    case Body::kKeepClock: {
      const auto& body = request.keep_clock();
      *what = name_of("keep the clock", body.process());
      const QemuProcess process = named(body.process());
      const int vm = process.find_fd("anon_inode:kvm-vm");
      const std::lock_guard lock(injecting_);
      const KeptClock kept = keep_clock(process, vm, {body.since().guest_ns(), body.since().host_ns()}, body.lost_ns_max());
      reply->mutable_clock()->mutable_since()->set_guest_ns(kept.since.guest_ns);
      reply->mutable_clock()->mutable_since()->set_host_ns(kept.since.host_ns);
      reply->mutable_clock()->set_given_ns(kept.given_ns);
      return {};
    }
    case Body::kConnectMonitor:
      *what = "connect to a monitor";
      return one(connect_monitor(run_dir_ + "/qmp", request.connect_monitor().path()));
    case Body::BODY_NOT_SET: break;
  }
  throw Error(Code::kInvalid, "this mhv-broker does not know the request", "run the same release of nova-mhv everywhere");
}

}  // namespace mhv::broker
