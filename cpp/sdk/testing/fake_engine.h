// For tests: the engine's end of a layer, with a guest that is nothing but memory.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "ring/ring.h"

namespace mhv::sdk::testing {

using Json = nlohmann::json;

inline std::chrono::steady_clock::time_point patience() { return std::chrono::steady_clock::now() + std::chrono::seconds(60); }

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

// Throws when nothing comes.
class FakeEngine {
 public:
  static constexpr std::uint64_t kRam = 64 << 20;

  // `polled`: as with a service VM, neither side wakes the other.
  explicit FakeEngine(bool polled = false) : FakeEngine(make(polled)) {}
  ring::Ends take_layer_ends() { return std::move(layer_); }
  const Fd& memory() const { return memory_; }

  Json hello(int descriptor = 6) const {
    return {{"abi", ring::kAbi},
            {"guest", "00000000-0000-4000-8000-000000000001"},
            {"name", "test"},
            {"layer", "tested"},
            {"configuration", Json::object()},
            {"memory", {{{"start", 0}, {"bytes", kRam}, {"descriptor", descriptor}, {"offset", 0}}}}};
  }
  void say(ring::Type type, std::uint64_t id, const Json& json) { say_text(type, id, json.dump()); }
  void say_text(ring::Type type, std::uint64_t id, const std::string& text) {
    const std::lock_guard lock(sending_);
    if (!channel_.send_text(patience(), type, id, text)) throw Error(Code::kUnavailable, "the layer does not read");
  }
  void say_bytes(ring::Type type, std::uint64_t id, std::span<const std::byte> payload) {
    const std::lock_guard lock(sending_);
    if (!channel_.send_until(patience(), type, id, payload)) throw Error(Code::kUnavailable, "the layer does not read");
  }
  void epoch(std::uint64_t number, std::span<const ring::Vcpu> vcpus, std::span<const ring::PageRange> written, bool all = false) {
    const ring::Epoch epoch{number, 1, 0, static_cast<std::uint32_t>(vcpus.size()), static_cast<std::uint32_t>(written.size()), all};
    std::vector<std::byte> payload;
    for (const auto part : {bytes_of(epoch), std::as_bytes(vcpus), std::as_bytes(written)}) {
      payload.insert(payload.end(), part.begin(), part.end());
    }
    say_bytes(ring::Type::kEpoch, number, payload);
  }
  void packet(std::uint64_t number, std::span<const std::byte> bytes) {
    const ring::Packet packet{number, 0, 0, static_cast<std::uint32_t>(bytes.size()), 0};
    std::vector<std::byte> payload(sizeof packet);
    std::memcpy(payload.data(), &packet, sizeof packet);
    payload.insert(payload.end(), bytes.begin(), bytes.end());
    say_bytes(ring::Type::kPacket, number, payload);
  }

  // What the layer says next but kRead, which is answered from memory().
  ring::Message next() {
    for (;;) {
      std::optional<ring::Message> message = channel_.receive_until(patience());
      if (!message) throw Error(Code::kUnavailable, "the layer says nothing");
      if (message->type != ring::Type::kRead) return std::move(*message);
      ++reads;
      ring::Read read;
      std::memcpy(&read, message->payload.data(), sizeof read);
      std::vector<std::byte> bytes;
      if (read.bytes <= ring::kReadMax && read.start <= kRam && kRam - read.start >= read.bytes) {
        bytes.resize(read.bytes);
        pread_all(memory_.get(), bytes, read.start, "memory");
      }
      if (before_bytes) std::exchange(before_bytes, nullptr)();
      say_bytes(ring::Type::kBytes, message->id, bytes);
    }
  }
  // The next message, whole, which has to be of this type.
  std::string text(ring::Type type) {
    for (;;) {
      const ring::Message message = next();
      if (message.type != type) {
        throw Error(Code::kInvalid, "the layer said " + std::to_string(static_cast<int>(message.type)) + ": " +
                                        std::string(reinterpret_cast<const char*>(message.payload.data()), message.payload.size()));
      }
      if (auto whole = parts_.add(message)) return std::move(*whole);
    }
  }
  Json json(ring::Type type) { return Json::parse(text(type)); }
  std::uint64_t epoch_done() {
    std::uint64_t number = 0;
    std::memcpy(&number, text(ring::Type::kEpochDone).data(), sizeof number);
    return number;
  }
  Json answer(const std::string& method, const Json& arguments = Json::object()) {
    say(ring::Type::kRequest, 7, {{"method", method}, {"arguments", arguments}});
    return json(ring::Type::kAnswer);
  }

  // Starts a program as the engine does; the memory is its descriptor 6.
  pid_t start(const std::vector<std::string>& command) {
    const pid_t child = ::fork();
    if (child != 0) {
      layer_ = {};
      return child;
    }
    std::vector<int> high;
    for (const Fd* fd : {&layer_.memory, &layer_.wakes_me, &layer_.wakes_peer, &memory_}) high.push_back(::fcntl(fd->get(), F_DUPFD, 100));
    for (std::size_t i = 0; i < high.size(); ++i) ::dup2(high[i], 3 + static_cast<int>(i));
    for (const int fd : high) ::close(fd);
    std::vector<char*> arguments;
    for (const std::string& one : command) arguments.push_back(const_cast<char*>(one.c_str()));
    arguments.push_back(nullptr);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }

  int reads = 0;
  std::function<void()> before_bytes;  // once

 private:
  static ring::NewChannel make(bool polled) {
    ring::NewChannel out = ring::make_channel();
    if (polled) {
      for (ring::Ends* ends : {&out.engine, &out.layer}) {
        ends->wakes_me.close();
        ends->wakes_peer.close();
      }
    }
    return out;
  }
  explicit FakeEngine(ring::NewChannel channel)
      : layer_(std::move(channel.layer)), channel_(std::move(channel.engine), ring::Side::kEngine), memory_(Fd::memory("guest")) {
    if (::ftruncate(memory_.get(), kRam) != 0) throw_errno("cannot size memory");
  }

  ring::Ends layer_;
  ring::Channel channel_;
  std::mutex sending_;
  Fd memory_;
  ring::TextParts parts_;
};

// The exit status of a process that ends.
inline int status_of(pid_t child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace mhv::sdk::testing
