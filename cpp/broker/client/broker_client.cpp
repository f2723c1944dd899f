#include "client/broker_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <optional>

#include "base/error.h"
#include "base/frame.h"
#include "mhv.pb.h"

namespace mhv {
namespace {

constexpr int kReplyWaitMs = 20'000;  // the broker's own limits are far below

void name_process(protocol::BrokerProcess* process, int pid, std::uint64_t start_time) {
  process->set_pid(pid);
  process->set_start_time(start_time);
}

Code known_code(std::uint32_t code) {
  return code <= static_cast<std::uint32_t>(Code::kUnavailable) ? static_cast<Code>(code) : Code::kInternal;
}

std::optional<Frame> receive_in_time(int socket, const std::string& program) {
  pollfd poll_for{socket, POLLIN, 0};
  int n = 0;
  do {
    n = ::poll(&poll_for, 1, kReplyWaitMs);
  } while (n < 0 && errno == EINTR);
  if (n == 0) throw Error(Code::kUnavailable, program + " does not answer", "see its log; restart it if it hangs");
  return receive_frame(socket);
}

}  // namespace

void PrivilegedSocket::connect() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path_.size() >= sizeof(address.sun_path)) throw Error(Code::kInvalid, "socket path is too long: " + path_);
  std::memcpy(address.sun_path, path_.data(), path_.size());
  Fd fd = Fd::own(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) throw_errno("cannot create a socket");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    throw Error(Code::kUnavailable, program_ + " does not answer at " + path_ + ": " + std::strerror(errno),
                "start " + program_ + " as root, with the --run-dir and --user of this mhvd");
  }
  socket_ = std::move(fd);
}

std::vector<Fd> PrivilegedSocket::call(const protocol::BrokerRequest& request, std::size_t fds, protocol::BrokerReply* reply, bool repeat) {
  const std::string payload = request.SerializeAsString();
  const std::lock_guard lock(mutex_);
  for (int attempt = 0;; ++attempt) {
    const bool fresh = !socket_;
    if (fresh) connect();
    bool sent = false;
    try {
      send_frame(socket_.get(), payload);
      sent = true;
      std::optional<Frame> frame = receive_in_time(socket_.get(), program_);
      if (!frame) throw Error(Code::kUnavailable, program_ + " closed the connection", "its log says why");
      if (!reply->ParseFromString(frame->payload)) throw Error(Code::kInvalid, program_ + " sent no valid reply");
      if (reply->has_error()) throw Error(known_code(reply->error().code()), reply->error().message(), reply->error().hint());
      if (frame->fds.size() != fds) throw Error(Code::kInvalid, program_ + " sent another number of descriptors than asked for");
      return std::move(frame->fds);
    } catch (const Error&) {
      // An error inside a whole reply leaves the connection usable; anything else does not.
      if (reply->has_error()) throw;
      socket_.close();
      if (attempt > 0 || fresh || (sent && !repeat)) throw;
    }
  }
}

Fd BrokerClient::uffd_device() {
  protocol::BrokerRequest request;
  protocol::BrokerReply reply;
  request.mutable_uffd_device();
  return std::move(call(request, 1, &reply)[0]);
}

BrokerClient::GuestFds BrokerClient::open_guest(int pid, std::uint64_t start_time) {
  protocol::BrokerRequest request;
  protocol::BrokerReply reply;
  name_process(request.mutable_open_guest()->mutable_process(), pid, start_time);
  std::vector<Fd> fds = call(request, 4, &reply);
  return {std::move(fds[0]), std::move(fds[1]), std::move(fds[2]), std::move(fds[3])};
}

Fd BrokerClient::open_mapping(int pid, std::uint64_t start_time, std::uint64_t start, std::uint64_t end, bool read_only) {
  protocol::BrokerRequest request;
  protocol::BrokerReply reply;
  auto* body = request.mutable_open_mapping();
  name_process(body->mutable_process(), pid, start_time);
  body->set_start(start);
  body->set_end(end);
  body->set_read_only(read_only);
  return std::move(call(request, 1, &reply)[0]);
}

BrokerClient::Injected BrokerClient::inject_uffd(int pid, std::uint64_t start_time, int device_fd) {
  protocol::BrokerRequest request;
  protocol::BrokerReply reply;
  name_process(request.mutable_inject_uffd()->mutable_process(), pid, start_time);
  request.mutable_inject_uffd()->set_device_fd(device_fd);
  std::vector<Fd> fds = call(request, 1, &reply, /*repeat=*/false);
  return {std::move(fds[0]), reply.uffd_fd(), reply.attempts()};
}

Fd BrokerClient::take_uffd(int pid, std::uint64_t start_time, int number) {
  protocol::BrokerRequest request;
  protocol::BrokerReply reply;
  name_process(request.mutable_take_uffd()->mutable_process(), pid, start_time);
  request.mutable_take_uffd()->set_uffd_fd(number);
  return std::move(call(request, 1, &reply)[0]);
}

Fd BrokerClient::connect_monitor(const std::string& path) {
  protocol::BrokerRequest request;
  protocol::BrokerReply reply;
  request.mutable_connect_monitor()->set_path(path);
  return std::move(call(request, 1, &reply)[0]);
}

protocol::KeptClock BrokerClient::keep_clock(int pid, std::uint64_t start_time, const protocol::ClockMoment& since,
                                             std::uint64_t lost_ns_max) {
  protocol::BrokerRequest request;
  protocol::BrokerReply reply;
  auto* body = request.mutable_keep_clock();
  name_process(body->mutable_process(), pid, start_time);
  *body->mutable_since() = since;
  body->set_lost_ns_max(lost_ns_max);
  call(request, 0, &reply);
  return reply.clock();
}

std::vector<Fd> TapperClient::interpose(int pid, std::uint64_t start_time, const std::string& tap, bool inbound) {
  protocol::BrokerRequest request;
  protocol::BrokerReply reply;
  auto* body = request.mutable_interpose();
  name_process(body->mutable_process(), pid, start_time);
  body->set_tap(tap);
  body->set_inbound(inbound);
  return tapper_.call(request, inbound ? 2 : 1, &reply);
}

void TapperClient::undo_interpose(int pid, std::uint64_t start_time, const std::string& tap) {
  protocol::BrokerRequest request;
  protocol::BrokerReply reply;
  name_process(request.mutable_undo_interpose()->mutable_process(), pid, start_time);
  request.mutable_undo_interpose()->set_tap(tap);
  tapper_.call(request, 0, &reply);
}

bool BrokerClient::ping() noexcept {
  try {
    protocol::BrokerRequest request;
    protocol::BrokerReply reply;
    request.mutable_ping();
    call(request, 0, &reply);
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace mhv
