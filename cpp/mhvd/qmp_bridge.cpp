#include "mhvd/qmp_bridge.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "base/error.h"

namespace mhv::mhvd {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kLineMax = 4u << 20;
constexpr std::size_t kFdsMax = 8;
constexpr std::size_t kEventsMax = 1024;

std::string error_answer(const Json& id, const std::string& text) {
  Json answer{{"error", {{"class", "GenericError"}, {"desc", text}}}};
  if (!id.is_null()) answer["id"] = id;
  return answer.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string answer_line(Monitor& monitor, const std::string& line, std::span<const int> fds) {
  Json id;
  try {
    Json command = Json::parse(line);
    if (!command.is_object() || !command.contains("execute")) return error_answer(id, "not a QMP command");
    if (command.contains("id")) id = command["id"];
    command.erase("id");  // libvirt numbers its commands itself
    if (command["execute"] == "qmp_capabilities") return Json{{"return", Json::object()}, {"id", id}}.dump();
    Json answer = Json::parse(monitor.execute(command.dump(), fds));
    if (!answer.is_object()) return error_answer(id, "QEMU's answer is no object");
    answer.erase("id");
    if (!id.is_null()) answer["id"] = id;
    return answer.dump(-1, ' ', false, Json::error_handler_t::replace);
  } catch (const Json::exception& error) {
    return error_answer(id, error.what());
  }
}

QmpBridge::QmpBridge(std::unique_ptr<Monitor> monitor) : monitor_(std::move(monitor)) {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) throw_errno("cannot make a socket pair");
  worker_end_ = Fd::own(ends[0]);
  end_ = Fd::own(ends[1]);
  wake_ = Fd::own(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) throw_errno("cannot make an eventfd");
  thread_ = std::thread([this] { serve(); });
}

QmpBridge::~QmpBridge() {
  stopping_ = true;
  ::shutdown(end_.get(), SHUT_RDWR);
  post_event("");
  thread_.join();
}

void QmpBridge::post_event(std::string event) {
  {
    const std::lock_guard lock(mutex_);
    if (!event.empty() && events_.size() < kEventsMax) events_.push_back(std::move(event));
  }
  const std::uint64_t one = 1;
  if (::write(wake_.get(), &one, sizeof one) < 0 && errno != EAGAIN) spdlog::error("QMP bridge: cannot wake its thread");
}

void QmpBridge::send(std::string line) {
  line += '\n';
  std::string_view left = line;
  while (!left.empty()) {
    const ssize_t n = ::send(end_.get(), left.data(), left.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("QMP bridge: cannot answer");
    left.remove_prefix(static_cast<std::size_t>(n));
  }
}

// False: the worker closed its end.
bool QmpBridge::read_input() {
  std::array<char, 65536> buffer;
  iovec part{buffer.data(), buffer.size()};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(kFdsMax * sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t n = ::recvmsg(end_.get(), &message, MSG_CMSG_CLOEXEC);
  if (n < 0) return errno == EINTR;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    for (std::size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
      int number;
      std::memcpy(&number, CMSG_DATA(c) + i * sizeof(int), sizeof number);
      input_fds_.push_back(Fd::own(number));
    }
  }
  if (n == 0 || (message.msg_flags & MSG_CTRUNC) != 0 || input_fds_.size() > kFdsMax) return false;
  input_.append(buffer.data(), static_cast<std::size_t>(n));
  return input_.size() <= kLineMax;
}

void QmpBridge::serve() {
  try {
    while (!stopping_) {
      std::array<pollfd, 2> polled{pollfd{end_.get(), POLLIN, 0}, pollfd{wake_.get(), POLLIN, 0}};
      if (::poll(polled.data(), polled.size(), -1) < 0 && errno != EINTR) throw_errno("QMP bridge: cannot poll");
      std::uint64_t count = 0;
      if (polled[1].revents != 0 && ::read(wake_.get(), &count, sizeof count) < 0 && errno != EAGAIN)
        throw_errno("QMP bridge: cannot read");
      std::vector<std::string> events;
      {
        const std::lock_guard lock(mutex_);
        events.swap(events_);
      }
      for (std::string& event : events) send(std::move(event));
      if (polled[0].revents != 0 && !read_input()) break;
      for (std::size_t end = input_.find('\n'); end != std::string::npos && !stopping_; end = input_.find('\n')) {
        const std::string line = input_.substr(0, end);
        input_.erase(0, end + 1);
        if (line.find_first_not_of(" \r\t") == std::string::npos) continue;
        std::vector<Fd> fds = std::move(input_fds_);
        input_fds_.clear();
        std::vector<int> numbers;
        for (const Fd& fd : fds) numbers.push_back(fd.get());
        send(answer_line(*monitor_, line, numbers));
      }
    }
  } catch (const Error& error) {
    if (!stopping_) spdlog::warn("a monitor through libvirt is closed: {}", error.what());
  }
  ended_ = true;
  ::shutdown(end_.get(), SHUT_RDWR);
}

}  // namespace mhv::mhvd
