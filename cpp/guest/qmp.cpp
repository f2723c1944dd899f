#include "guest/qmp.h"

#include <array>

#include "base/error.h"
#include "guest/qmp_sys.h"

namespace mhv::guest {
namespace {

constexpr std::chrono::seconds kGreetingTimeout{30};

}  // namespace

Qmp::Qmp(Fd socket, bool greeted, std::string pending) : socket_(std::move(socket)), lines_(std::move(pending)) {
  if (greeted) return;
  const auto deadline = std::chrono::steady_clock::now() + kGreetingTimeout;
  while (read_message(deadline).kind != QmpKind::kGreeting) {
  }
  call("qmp_capabilities");
}

bool Qmp::receive_some() {
  std::array<char, 65536> buffer;
  const std::size_t n = sys::receive_now(socket_.get(), buffer);
  lines_.feed({buffer.data(), n});
  return n > 0;
}

// A stream that is not QMP has no next message, so it counts as a dead one.
std::optional<QmpMessage> Qmp::next_message() {
  std::optional<QmpMessage> message;
  try {
    if (const auto line = lines_.next()) message = parse_qmp_message(*line);
  } catch (const Error& error) {
    throw Error(Code::kUnavailable, error.what(), error.hint());
  }
  if (message && message->kind == QmpKind::kEvent && handler_) handler_(message->body);
  return message;
}

QmpMessage Qmp::read_message(Deadline deadline) {
  for (;;) {
    if (auto message = next_message()) return std::move(*message);
    if (!receive_some()) sys::wait_readable(socket_.get(), deadline);
  }
}

std::uint64_t Qmp::post(std::string_view command, const Json& arguments, std::span<const int> fds, std::chrono::milliseconds timeout) {
  const std::uint64_t id = next_id_++;
  Json request{{"execute", command}, {"id", id}};
  if (!arguments.empty()) request["arguments"] = arguments;
  sys::send_with_fds(socket_.get(), request.dump(-1, ' ', true, Json::error_handler_t::replace) + "\n", fds,
                     std::chrono::steady_clock::now() + timeout);
  return id;
}

// nullopt: the message is about something else.
std::optional<Qmp::Json> Qmp::reply_in(QmpMessage message, std::uint64_t id, std::string_view command) const {
  if (message.kind == QmpKind::kReturn && message.id == id) return std::move(message.body);
  // An error without id is about a request that QEMU could not read.
  if (message.kind == QmpKind::kError && (!message.id || message.id == id)) {
    throw Error(Code::kInvalid, "QEMU refused " + std::string(command) + ": " + message.error_class + ": " + message.error_text);
  }
  return std::nullopt;
}

Qmp::Json Qmp::take(std::uint64_t id, std::string_view command, std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    if (auto reply = reply_in(read_message(deadline), id, command)) return std::move(*reply);
  }
}

std::optional<Qmp::Json> Qmp::try_take(std::uint64_t id, std::string_view command) {
  do {
    while (auto message = next_message()) {
      if (auto reply = reply_in(std::move(*message), id, command)) return reply;
    }
  } while (receive_some());
  return std::nullopt;
}

Qmp::Json Qmp::call(std::string_view command, const Json& arguments, std::span<const int> fds, std::chrono::milliseconds timeout) {
  return take(post(command, arguments, fds, timeout), command, timeout);
}

void Qmp::try_call(std::string_view command, const Json& arguments) {
  try {
    call(command, arguments);
  } catch (const Error& error) {
    if (error.code() != Code::kInvalid) throw;
  }
}

std::string Qmp::hmp(const std::string& command_line) {
  const Json reply = call("human-monitor-command", {{"command-line", command_line}});
  if (!reply.is_string()) throw Error(Code::kUnavailable, "QEMU answered " + command_line + " with something else than text");
  return reply.get<std::string>();
}

void Qmp::pump() {
  do {
    while (next_message()) {
    }
  } while (receive_some());
}

std::pair<Fd, std::string> Qmp::release() && { return {std::move(socket_), std::move(lines_).release()}; }

std::string text_of(const Qmp::Json& object, const char* key) {
  if (!object.is_object()) return {};
  const auto field = object.find(key);
  return field != object.end() && field->is_string() ? field->get<std::string>() : std::string();
}

}  // namespace mhv::guest
