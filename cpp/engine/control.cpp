#include "engine/control.h"

#include <spdlog/spdlog.h>

#include <chrono>

#include "base/frame.h"

namespace mhv::engine {
namespace {

constexpr auto kProgressEvery = std::chrono::milliseconds(100);

}  // namespace

std::optional<Command> Control::receive() {
  std::optional<Frame> frame = receive_frame(socket_.get());
  if (!frame) return std::nullopt;
  Command command;
  if (!command.message.ParseFromString(frame->payload)) throw Error(Code::kInvalid, "mhvd sent something that is no command");
  command.fds = std::move(frame->fds);
  return command;
}

void Control::send(const protocol::WorkerReport& report, std::span<const int> fds) noexcept {
  try {
    const std::lock_guard lock(sending_);
    send_frame(socket_.get(), report.SerializeAsString(), fds);
  } catch (const std::exception& error) {
    spdlog::debug("mhvd does not listen: {}", error.what());
  }
}

void Control::reply(std::uint64_t request, protocol::Reply reply) noexcept {
  protocol::WorkerReport report;
  reply.set_id(request);
  *report.mutable_reply() = std::move(reply);
  send(report);
}

void Control::fail(std::uint64_t request, const Error& error) noexcept {
  protocol::Reply reply_message;
  reply_message.mutable_error()->set_code(static_cast<std::uint32_t>(error.code()));
  reply_message.mutable_error()->set_message(error.what());
  reply_message.mutable_error()->set_hint(error.hint());
  reply(request, std::move(reply_message));
}

void Control::progress(std::uint64_t request, const char* stage, std::uint64_t done, std::uint64_t total) noexcept {
  protocol::Reply reply_message;
  reply_message.mutable_progress()->set_stage(stage);
  reply_message.mutable_progress()->set_done(done);
  reply_message.mutable_progress()->set_total(total);
  reply(request, std::move(reply_message));
}

std::function<void(const char*, std::uint64_t, std::uint64_t)> Control::progress_of(std::uint64_t request) {
  using Clock = std::chrono::steady_clock;
  return [this, request, last = Clock::time_point{}](const char* stage, std::uint64_t done, std::uint64_t total) mutable {
    if (Clock::now() - last < kProgressEvery) return;
    last = Clock::now();
    progress(request, stage, done, total);
  };
}

}  // namespace mhv::engine
