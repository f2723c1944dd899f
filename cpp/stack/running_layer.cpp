#include "stack/running_layer.h"

#include <fmt/format.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/text.h"

namespace mhv::stack {
namespace {

using OrderedJson = nlohmann::ordered_json;  // people read it in the order that the layer gave it
using namespace std::chrono_literals;

constexpr auto kSendIn = 100ms;
constexpr int kHangsAfterBudgets = 10;
constexpr std::size_t kCallsMax = 64;
constexpr std::size_t kShownMax = 4096;  // of a text that goes to people
constexpr int kDepthMax = 64;

OrderedJson parse(const std::string& text) {
  const auto shallow = [](int depth, OrderedJson::parse_event_t, OrderedJson&) {
    if (depth > kDepthMax) throw Error(Code::kInvalid, "JSON that is too deep");
    return true;
  };
  try {
    return OrderedJson::parse(text, shallow);
  } catch (const OrderedJson::exception& error) {
    throw Error(Code::kInvalid, error.what());
  }
}

std::string dump(const OrderedJson& value) { return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace); }

// A text for people; no control characters.
std::string shown(const OrderedJson& from, const char* key) {
  const auto found = from.find(key);
  if (found == from.end() || !found->is_string()) return "";
  std::string out = beginning(found->get_ref<const std::string&>(), kShownMax);
  std::ranges::replace_if(
      out, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, ' ');
  return out;
}

std::span<const std::byte> bytes_of(const auto& value) { return std::as_bytes(std::span(&value, 1)); }

template <typename T>
T as(const ring::Message& message) {
  T out;
  if (message.payload.size() != sizeof out) throw Error(Code::kInvalid, "a message has the wrong size");
  std::memcpy(&out, message.payload.data(), sizeof out);
  return out;
}

}  // namespace

bool RunningLayer::Allowance::take() {
  const Clock::time_point now = Clock::now();
  left_ = std::min(per_second_, left_ + per_second_ * std::chrono::duration<double>(now - filled_).count());
  filled_ = now;
  if (left_ < 1) return false;
  left_ -= 1;
  return true;
}

RunningLayer::RunningLayer(ring::Ends ends, Charter charter, const std::string& hello, std::shared_ptr<const GuestMemory> memory,
                           Handlers handlers)
    : charter_(std::move(charter)),
      memory_(std::move(memory)),
      handlers_(std::move(handlers)),
      channel_(std::move(ends), ring::Side::kEngine),
      stop_(Fd::own(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))),
      packets_(charter_.network) {
  if (!stop_) throw_errno("cannot make an eventfd");
  if (!channel_.send_text(Clock::now() + kSendIn, ring::Type::kHello, 0, hello)) {
    throw Error(Code::kUnsupported, "what layer " + charter_.name + " is to be told does not fit into its ring",
                "shorten its configuration");
  }
  thread_ = std::thread([this] { run(); });
}

RunningLayer::~RunningLayer() {
  ::eventfd_write(stop_.get(), 1);
  thread_.join();
}

RunningLayer::Counts RunningLayer::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

// ---------------------------------------------------------------- any thread

// A lie is for the layer's own thread to act upon, whoever notices it.
bool RunningLayer::send(ring::Type type, std::uint64_t id, std::span<const std::byte> payload, std::uint16_t flags) {
  try {
    const std::lock_guard lock(sending_);
    return channel_.send(type, id, payload, flags);
  } catch (const Error& error) {
    const std::lock_guard lock(mutex_);
    lied_ = error;
    return false;
  }
}

bool RunningLayer::send_in_time(ring::Type type, std::uint64_t id, std::span<const std::byte> payload, std::uint16_t flags) {
  const Clock::time_point deadline = Clock::now() + kSendIn;
  ring::Nap nap;
  while (!send(type, id, payload, flags)) {
    if (Clock::now() >= deadline) return false;
    std::this_thread::sleep_for(nap.next());
  }
  return true;
}

bool RunningLayer::send_text(ring::Type type, std::uint64_t id, std::string_view text) {
  for (;;) {
    const std::string_view part = text.substr(0, ring::kPayloadMax);
    text.remove_prefix(part.size());
    if (!send_in_time(type, id, std::as_bytes(std::span(part)), text.empty() ? 0 : ring::kMore)) return false;
    if (text.empty()) return true;
  }
}

void RunningLayer::epoch(const EpochFacts& facts) {
  bool all = facts.written_all;
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    if (epoch_ != 0) {
      missed_ = true;
      return;
    }
    all |= missed_;
    epoch_ = facts.number;
    epoch_sent_ = Clock::now();
    epoch_late_ = false;
    missed_ = false;
  }
  ring::Epoch epoch;
  epoch.number = facts.number;
  epoch.time_ns = facts.time_ns;
  std::span<const ring::Vcpu> vcpus = charter_.vcpus ? facts.vcpus : std::span<const ring::Vcpu>();
  const std::size_t room = (ring::kPayloadMax - sizeof epoch - vcpus.size_bytes()) / sizeof(ring::PageRange);
  std::span<const ring::PageRange> written = charter_.written_pages ? facts.written : std::span<const ring::PageRange>();
  if (all || written.size() > room) {
    epoch.written_all = charter_.written_pages ? 1 : 0;
    written = {};
  }
  epoch.vcpus = static_cast<std::uint32_t>(vcpus.size());
  epoch.written = static_cast<std::uint32_t>(written.size());
  std::vector<std::byte> payload;
  for (const std::span<const std::byte> part : {bytes_of(epoch), std::as_bytes(vcpus), std::as_bytes(written)}) {
    payload.insert(payload.end(), part.begin(), part.end());
  }
  if (send(ring::Type::kEpoch, facts.number, payload)) return;
  const std::lock_guard lock(mutex_);
  epoch_ = 0;
  missed_ = true;
  ++counts_.late;
}

void RunningLayer::call(const std::string& method, const std::string& arguments, Clock::time_point deadline, AnswerFn answer) {
  std::uint64_t id = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!ended_ && calls_.size() < kCallsMax) {
      id = next_call_++;
      calls_[id] = {deadline, answer};
    }
  }
  if (id == 0) {
    const Error error(Code::kBusy, "layer " + charter_.name + " has too much to answer, or has just ended", "try again");
    answer(nullptr, &error);
    return;
  }
  const std::string text = dump({{"method", method}, {"arguments", arguments.empty() ? OrderedJson::object() : parse(arguments)}});
  if (send_text(ring::Type::kRequest, id, text)) return;
  {
    const std::lock_guard lock(mutex_);
    if (calls_.erase(id) == 0) return;  // answered already
    ++counts_.late;
  }
  const Error error(Code::kBusy, "layer " + charter_.name + " does not read what it is asked", "try again");
  answer(nullptr, &error);
}

void RunningLayer::event(const std::string& event) {
  if (charter_.sees_events && !send_text(ring::Type::kEvent, 0, event)) {
    const std::lock_guard lock(mutex_);
    ++counts_.dropped;
  }
}

bool RunningLayer::packet(const PacketToken& packet, std::uint32_t nic, ring::Direction direction, std::span<const std::byte> frame) {
  ring::Packet head;
  {
    const std::lock_guard lock(mutex_);
    if (ended_ || lied_ || !counts_.ready) return false;
    const std::optional<std::uint64_t> number = packets_.add(packet, Clock::now());
    if (!number) return false;
    head.number = *number;
  }
  head.nic = nic;
  head.direction = static_cast<std::uint32_t>(direction);
  head.bytes = static_cast<std::uint32_t>(frame.size());
  std::vector<std::byte> payload(sizeof head + frame.size());
  std::memcpy(payload.data(), &head, sizeof head);
  std::ranges::copy(frame, payload.begin() + sizeof head);
  if (send(ring::Type::kPacket, head.number, payload)) return true;
  const std::lock_guard lock(mutex_);
  packets_.take_back(head.number);
  return false;
}

// ---------------------------------------------------------------- the layer's thread

void RunningLayer::run() {
  const Clock::time_point begun = Clock::now();
  const bool polled = channel_.wake_fd() < 0;
  ring::Nap nap;
  try {
    for (;;) {
      if (serve()) nap.begin_anew();
      look_at_the_clock();
      if (!counts().ready && Clock::now() - begun > charter_.ready_in) throw Error(Code::kUnavailable, "it does not get ready");
      if (!channel_.want_wake()) continue;
      const auto left = std::clamp<Clock::duration>(next_deadline() - Clock::now(), 1ms, 1s);
      if (wait(polled ? std::min<Clock::duration>(left, nap.next()) : left)) break;
    }
    end("");
  } catch (const std::exception& error) {
    end(error.what());
  }
}

bool RunningLayer::wait(Clock::duration most) const {
  const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(most).count();
  const timespec timeout{ns / 1'000'000'000, ns % 1'000'000'000};
  std::array<pollfd, 2> polled{pollfd{stop_.get(), POLLIN, 0}, pollfd{channel_.wake_fd(), POLLIN, 0}};
  ::ppoll(polled.data(), polled.size(), &timeout, nullptr);
  return polled[0].revents != 0;
}

bool RunningLayer::serve() {
  bool served = false;
  for (ring::Message message; channel_.receive(message);) {
    served = true;
    handle(message);
    if (wait({})) break;
  }
  return served;
}

RunningLayer::Clock::time_point RunningLayer::next_deadline() {
  const std::lock_guard lock(mutex_);
  Clock::time_point next = Clock::time_point::max();
  for (const auto& [id, call] : calls_) next = std::min(next, call.deadline);
  if (epoch_ != 0) next = std::min(next, epoch_sent_ + charter_.budget * (epoch_late_ ? kHangsAfterBudgets : 1));
  if (const auto oldest = packets_.oldest()) next = std::min(next, *oldest + charter_.budget * kHangsAfterBudgets);
  return std::min(next, Clock::now() + 1s);
}

void RunningLayer::look_at_the_clock() {
  const Clock::time_point now = Clock::now();
  std::vector<AnswerFn> failed;
  bool hangs = false, forgets = false;
  {
    const std::lock_guard lock(mutex_);
    if (lied_) throw Error(*lied_);
    for (auto it = calls_.begin(); it != calls_.end();) {
      if (it->second.deadline > now) {
        ++it;
        continue;
      }
      failed.push_back(std::move(it->second.answer));
      it = calls_.erase(it);
      ++counts_.late;
    }
    if (epoch_ != 0 && counts_.ready) {
      if (!epoch_late_ && now - epoch_sent_ > charter_.budget) {
        epoch_late_ = true;
        ++counts_.late;
      }
      hangs = now - epoch_sent_ > charter_.budget * kHangsAfterBudgets;
    } else if (epoch_ != 0) {
      epoch_sent_ = now;  // it begins when it is ready
    }
    const auto oldest = packets_.oldest();
    forgets = oldest && now - *oldest > charter_.budget * kHangsAfterBudgets;
  }
  const Error error(Code::kUnavailable, "layer " + charter_.name + " does not answer", "try again; it is started again when it hangs");
  for (const AnswerFn& answer : failed) answer(nullptr, &error);
  if (hangs || forgets) {
    throw Error(Code::kUnavailable, fmt::format("it has not {} in {} ms", hangs ? "finished an epoch" : "decided about a packet",
                                                (charter_.budget * kHangsAfterBudgets).count()));
  }
}

void RunningLayer::handle(const ring::Message& message) {
  switch (message.type) {
    case ring::Type::kRead: read(message); break;
    case ring::Type::kEpochDone: epoch_done(message); break;
    case ring::Type::kVerdict: verdict(message); break;
    case ring::Type::kReady:
    case ring::Type::kAlert:
    case ring::Type::kAnswer:
    case ring::Type::kAsk:
    case ring::Type::kEvent:
    case ring::Type::kLog: handle_text(message); break;
    default: break;  // of a newer SDK
  }
}

void RunningLayer::handle_text(const ring::Message& message) {
  const std::optional<std::string> text = parts_.add(message);
  if (!text) return;
  if (message.type == ring::Type::kLog) {
    if (logs_.take()) spdlog::info("layer {}: {}", charter_.name, shown({{"text", *text}}, "text"));
    return;
  }
  const OrderedJson said = parse(*text);
  if (!said.is_object()) throw Error(Code::kInvalid, "it said something that is no JSON object");
  switch (message.type) {
    case ring::Type::kReady: ready(said); break;
    case ring::Type::kAlert: alert(said); break;
    case ring::Type::kAnswer: answer(message.id, said); break;
    case ring::Type::kAsk: ask(said); break;
    default:
      if (charter_.sends_events && events_.take()) {
        handlers_.on_event(dump(said));
      } else {
        const std::lock_guard lock(mutex_);
        ++counts_.dropped;
      }
  }
}

void RunningLayer::ready(const OrderedJson& said) {
  if (!said.contains("abi") || said["abi"] != ring::kAbi) {
    throw Error(Code::kVersion,
                fmt::format("it was made for ABI {}, this engine has {}", said.value("abi", OrderedJson()).dump(), ring::kAbi));
  }
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(counts_.ready, true)) return;
  }
  handlers_.on_ready(shown(said, "version"));
}

void RunningLayer::alert(const OrderedJson& said) {
  Alert out{shown(said, "severity"), shown(said, "title"), dump(said.value("detail", OrderedJson::object()))};
  if (out.severity != "critical" && out.severity != "warning") out.severity = "info";
  const bool taken = alerts_.take() && out.detail.size() <= ring::kPayloadMax;
  {
    const std::lock_guard lock(mutex_);
    ++(taken ? counts_.alerts : counts_.dropped);
  }
  if (taken) handlers_.on_alert(std::move(out));
}

void RunningLayer::ask(const OrderedJson& said) {
  const std::string action = shown(said, "action");
  if (!charter_.actions.contains(action)) {
    throw Error(Code::kPermission, "it asks for \"" + beginning(action, 64) + "\", which its manifest does not claim");
  }
  if (asks_.take()) {
    handlers_.on_ask({action, shown(said, "reason"), said.value("before_ns", std::uint64_t{0})});
    return;
  }
  const std::lock_guard lock(mutex_);
  ++counts_.dropped;
}

void RunningLayer::answer(std::uint64_t id, const OrderedJson& said) {
  AnswerFn answer;
  {
    const std::lock_guard lock(mutex_);
    const auto found = calls_.find(id);
    if (found == calls_.end()) return;  // it was late
    answer = std::move(found->second.answer);
    calls_.erase(found);
  }
  if (said.contains("result")) {
    const std::string result = dump(said["result"]);
    answer(&result, nullptr);
    return;
  }
  const OrderedJson failure = said.value("error", OrderedJson::object());
  Code code = Code::kInternal;
  for (int each = 0; each <= static_cast<int>(Code::kUnavailable); ++each) {
    if (failure.is_object() && failure.value("code", "") == code_name(static_cast<Code>(each))) code = static_cast<Code>(each);
  }
  const Error error(code, "layer " + charter_.name + ": " + shown(failure, "message"), shown(failure, "hint"));
  answer(nullptr, &error);
}

void RunningLayer::read(const ring::Message& message) {
  const auto asked = as<ring::Read>(message);
  std::vector<std::byte> out;
  if (charter_.memory && asked.bytes <= ring::kReadMax) {
    out.resize(asked.bytes);
    if (!memory_->read(asked.start, out)) out.clear();
  }
  if (!send_in_time(ring::Type::kBytes, message.id, out)) {
    throw Error(Code::kUnavailable, "it does not read what it asked for");
  }
}

void RunningLayer::epoch_done(const ring::Message& message) {
  const auto number = as<std::uint64_t>(message);
  const std::lock_guard lock(mutex_);
  if (number == 0 || number != epoch_) return;
  epoch_ = 0;
  ++counts_.epochs;
}

void RunningLayer::verdict(const ring::Message& message) {
  std::optional<PacketVerdict> said;
  {
    const std::lock_guard lock(mutex_);
    said = packets_.settle(message.payload);
  }
  if (said) handlers_.on_verdict(std::move(*said));
}

void RunningLayer::end(const std::string& why) {
  std::map<std::uint64_t, Call> calls;
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    calls.swap(calls_);
  }
  const Error error(Code::kUnavailable, "layer " + charter_.name + " ended before it answered", "try again");
  for (const auto& [id, call] : calls) call.answer(nullptr, &error);
  if (!why.empty()) handlers_.on_end(why);
}

}  // namespace mhv::stack
