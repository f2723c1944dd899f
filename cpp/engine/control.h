// The worker's end of its socket to mhvd.
#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <span>

#include "base/error.h"
#include "base/fd.h"
#include "mhv.pb.h"

namespace mhv::engine {

struct Command {
  protocol::WorkerCommand message;
  std::vector<Fd> fds;
};

// receive() from one thread; the senders from any.
class Control {
 public:
  explicit Control(Fd socket) : socket_(std::move(socket)) {}

  // nullopt: mhvd is gone.
  std::optional<Command> receive();
  // What mhvd no longer reads is dropped: a worker without mhvd ends by itself.
  void send(const protocol::WorkerReport& report, std::span<const int> fds = {}) noexcept;
  void reply(std::uint64_t request, protocol::Reply reply) noexcept;
  void fail(std::uint64_t request, const Error& error) noexcept;
  void progress(std::uint64_t request, const char* stage, std::uint64_t done, std::uint64_t total) noexcept;
  // (stage, done, total), told now and then. Of one thread; outlived by this.
  std::function<void(const char*, std::uint64_t, std::uint64_t)> progress_of(std::uint64_t request);

 private:
  Fd socket_;
  std::mutex sending_;
};

}  // namespace mhv::engine
