// A QMP connection over a stream socket: QEMU's own monitor, or mhvd's bridge to libvirt's.
#pragma once

#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/fd.h"
#include "guest/qmp_wire.h"

namespace mhv::guest {

// One thread at a time. A connection that threw kGone or kUnavailable is of no further use.
class Qmp {
 public:
  using Json = nlohmann::json;
  using Deadline = std::chrono::steady_clock::time_point;
  // `greeted`: capabilities are negotiated already; `pending` was read from the socket by whoever had it before.
  Qmp(Fd socket, bool greeted, std::string pending = {});

  // Sends {"execute": command, "arguments": arguments} with `fds` beside it and returns "return".
  // Throws kInvalid with QEMU's class and text when QEMU refuses, kGone when the socket closed, kUnavailable on time-out
  // or when something else than QMP came.
  Json call(std::string_view command, const Json& arguments = Json::object(), std::span<const int> fds = {},
            std::chrono::milliseconds timeout = std::chrono::seconds(30));
  // call() in two halves, for work beside QEMU's: the number that take() waits for. Replies have to be taken in the order of
  // the posts; one that is never taken is stepped over.
  std::uint64_t post(std::string_view command, const Json& arguments = Json::object(), std::span<const int> fds = {},
                     std::chrono::milliseconds timeout = std::chrono::seconds(30));
  Json take(std::uint64_t id, std::string_view command, std::chrono::milliseconds timeout = std::chrono::seconds(30));
  // take(), when it has come already.
  std::optional<Json> try_take(std::uint64_t id, std::string_view command);
  // call(), where a refusal means that it is done already.
  void try_call(std::string_view command, const Json& arguments);
  std::string hmp(const std::string& command_line);
  // Events seen while waiting for replies, in order; the caller may poll fd() and then call pump().
  void on_event(std::function<void(const Json&)> handler) { handler_ = std::move(handler); }
  // Handles what has arrived, without waiting.
  void pump();
  int fd() const { return socket_.get(); }

  // Hands the connection over: descriptor and the bytes read but not used.
  std::pair<Fd, std::string> release() &&;

 private:
  std::optional<QmpMessage> next_message();
  QmpMessage read_message(Deadline deadline);
  std::optional<Json> reply_in(QmpMessage message, std::uint64_t id, std::string_view command) const;
  bool receive_some();
  Fd socket_;
  LineReader lines_;
  std::uint64_t next_id_ = 1;
  std::function<void(const Json&)> handler_;
};

// A field of QEMU's answer; "" when it is not there or no text.
std::string text_of(const Qmp::Json& object, const char* key);

}  // namespace mhv::guest
