#include "client/client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <charconv>
#include <cstring>

#include "base/frame.h"

namespace mhv::client {
namespace {

constexpr std::size_t kIdleMax = 4;

Fd connect_to(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    throw Error(Code::kInvalid, "\"" + path + "\" is no path of a socket",
                "a socket path has 1 to " + std::to_string(sizeof address.sun_path - 1) + " bytes");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  Fd fd = Fd::own(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) throw_errno("cannot make a socket");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const int error = errno;
    if (error == ENOENT || error == ECONNREFUSED) {
      throw Error(Code::kUnavailable, "mhvd does not answer on " + path,
                  "start it with \"systemctl start mhvd\" (or run mhvd by hand), or name its socket");
    }
    if (error == EACCES || error == EPERM) {
      throw Error(Code::kPermission, "no permission to talk to mhvd on " + path, "be root, or a member of the group nova-mhv");
    }
    throw_errno("cannot connect to mhvd on " + path, error);
  }
  return fd;
}

// An idle connection has nothing to say: whatever can be read from it is the peer's end, or an answer out of turn.
bool usable(const Fd& fd) {
  pollfd entry{fd.get(), POLLIN, 0};
  return ::poll(&entry, 1, 0) == 0;
}

Error ended_in_the_middle() {
  return Error(Code::kUnavailable, "mhvd ended in the middle of the request; guests run on", "try again when mhvd is back");
}

// A frame's own error knows of a peer only.
auto unless_it_ended(const auto& exchange) {
  try {
    return exchange();
  } catch (const Error& error) {
    if (error.code() == Code::kUnavailable) throw ended_in_the_middle();
    throw;
  }
}

}  // namespace

Client::Client(std::string socket_path) : socket_path_(std::move(socket_path)) {}

Fd Client::take_connection() {
  {
    const std::lock_guard lock(mutex_);
    while (!idle_.empty()) {
      Fd fd = std::move(idle_.back());
      idle_.pop_back();
      if (usable(fd)) return fd;
    }
  }
  return connect_to(socket_path_);
}

void Client::give_back(Fd connection) {
  const std::lock_guard lock(mutex_);
  if (idle_.size() < kIdleMax) idle_.push_back(std::move(connection));
}

protocol::Reply Client::call(protocol::Request request, const ProgressFn& progress, std::span<const int> fds) {
  Fd connection = take_connection();
  {
    const std::lock_guard lock(mutex_);
    request.set_id(next_id_++);
  }
  const int socket = connection.get();
  unless_it_ended([&] { send_frame(socket, request.SerializeAsString(), fds); });
  for (;;) {
    const std::optional<Frame> frame = unless_it_ended([&] { return receive_frame(socket); });
    if (!frame) throw ended_in_the_middle();
    protocol::Reply reply;
    if (!reply.ParseFromString(frame->payload)) throw Error(Code::kInvalid, "mhvd sent a reply that cannot be read");
    if (reply.id() != request.id() && !(reply.id() == 0 && reply.has_error())) {
      throw Error(Code::kInvalid, "mhvd answered another request than the one sent");
    }
    if (reply.has_progress()) {
      if (progress) progress(reply.progress());
      continue;
    }
    // An error without an id is about the connection itself, which mhvd then closes.
    if (reply.id() != 0) give_back(std::move(connection));
    if (reply.has_error()) throw error_of(reply.error());
    return reply;
  }
}

Error error_of(const protocol::Error& error) {
  const bool known = error.code() <= static_cast<std::uint32_t>(Code::kUnavailable);
  return Error(known ? static_cast<Code>(error.code()) : Code::kInternal, error.message(), error.hint());
}

protocol::DiskPolicy parse_disk_policy(const std::string& text) {
  for (const auto policy : {protocol::DISKS_REQUIRED, protocol::DISKS_BEST_EFFORT, protocol::DISKS_NONE}) {
    if (text == disk_policy_name(policy)) return policy;
  }
  throw Error(Code::kInvalid, "unknown disk policy \"" + text.substr(0, 64) + "\"", "it is one of required, best-effort, none");
}

void set_keep(protocol::ServiceOptions& options, const std::string& text) {
  if (text.find(':') != std::string::npos) {
    options.set_checkpoint_keep_policy(text);
    return;
  }
  std::uint32_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc{} || end != text.data() + text.size()) {
    throw Error(Code::kInvalid, "\"" + text + "\" does not say which checkpoints stay", "a number, or pairs such as 1m:all,1h:1s,1d:1m");
  }
  options.set_checkpoint_keep(count);
}

const char* disk_policy_name(protocol::DiskPolicy policy) {
  switch (policy) {
    case protocol::DISKS_BEST_EFFORT: return "best-effort";
    case protocol::DISKS_NONE: return "none";
    default: return "required";
  }
}

}  // namespace mhv::client
