#include "stack/running_layer.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <array>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <memory>

#include "ring/testing.h"

namespace mhv::stack {
namespace {

using namespace std::chrono_literals;
using ring::Type;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

constexpr auto kLong = 10s;

// A megabyte at 1 GiB, each byte its address's.
class Memory : public GuestMemory {
 public:
  bool read(std::uint64_t start, std::span<std::byte> out) const override {
    if (start < kAt || start - kAt > kBytes || out.size() > kBytes - (start - kAt)) return false;
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>(start + i);
    return true;
  }
  static constexpr std::uint64_t kAt = 1 << 30, kBytes = 1 << 20;
};

Charter everything() {
  Charter out;
  out.name = "l";
  out.memory = out.written_pages = out.vcpus = out.sees_events = out.sends_events = true;
  out.network = NetworkClaim::kDrop;
  out.actions = {"checkpoint"};
  return out;
}

const std::vector<std::byte> kFrame(60, std::byte{3});

class RunningLayerTest : public ::testing::Test {
 protected:
  void start(const Charter& charter = everything()) {
    ring::NewChannel channel = ring::make_channel();
    memory_ = channel.layer.memory.duplicate();
    RunningLayer::Handlers handlers;
    handlers.on_ready = [this](const std::string& version) { note("ready " + version); };
    handlers.on_alert = [this](const RunningLayer::Alert& alert) {
      note("alert " + alert.severity + " " + alert.title + " " + alert.detail);
    };
    handlers.on_event = [this](const std::string& event) { note("event " + event); };
    handlers.on_ask = [this](const RunningLayer::Wish& wish) {
      note(fmt::format("ask {} {} {}", wish.action, wish.reason, wish.before_ns));
    };
    handlers.on_verdict = [this](const PacketVerdict& said) {
      note(fmt::format("verdict {}/{} {} {}", said.about.path, said.about.packet, static_cast<int>(said.decision), said.frame.size()));
    };
    handlers.on_end = [this](const std::string& why) { note("end " + why); };
    layer_ = std::make_unique<RunningLayer>(std::move(channel.engine), charter, R"({"abi": 1})", std::make_shared<Memory>(), handlers);
    peer_ = std::make_unique<ring::Channel>(std::move(channel.layer), ring::Side::kLayer);
    EXPECT_EQ(receive().type, Type::kHello);
  }
  void start_ready(const Charter& charter = everything()) {
    start(charter);
    say(Type::kReady, R"({"abi": 1, "version": "2"})");
    EXPECT_EQ(noted(), "ready 2");
  }

  // --- the layer's side
  ring::Message receive() {
    auto message = peer_->receive_until(std::chrono::steady_clock::now() + kLong);
    if (!message) throw Error(Code::kUnavailable, "the engine says nothing");
    return std::move(*message);
  }
  std::string receive_text() {
    for (;;) {
      if (const auto text = parts_.add(receive())) return *text;
    }
  }
  void say(Type type, const std::string& text, std::uint64_t id = 0) {
    ASSERT_TRUE(peer_->send_text(std::chrono::steady_clock::now() + kLong, type, id, text));
  }
  template <typename T>
  void say_bytes(Type type, const T& value, std::uint64_t id = 0) {
    ASSERT_TRUE(peer_->send(type, id, std::as_bytes(std::span(&value, 1))));
  }

  // --- what the engine noticed
  void note(const std::string& what) {
    const std::lock_guard lock(mutex_);
    notes_.push_back(what);
    changed_.notify_all();
  }
  std::string noted() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kLong, [&] { return !notes_.empty(); })) return "nothing";
    std::string out = notes_.front();
    notes_.pop_front();
    return out;
  }
  void call(const std::string& method, std::chrono::milliseconds in = kLong) {
    layer_->call(method, R"({"a": 1})", std::chrono::steady_clock::now() + in, [this](const std::string* result, const Error* error) {
      note(result != nullptr ? "result " + *result : fmt::format("error {} {}", code_name(error->code()), error->what()));
    });
  }
  ring::Epoch epoch_in(const ring::Message& message) {
    EXPECT_EQ(message.type, Type::kEpoch);
    ring::Epoch out;
    std::memcpy(&out, message.payload.data(), sizeof out);
    EXPECT_EQ(message.payload.size(), sizeof out + out.vcpus * sizeof(ring::Vcpu) + out.written * sizeof(ring::PageRange));
    return out;
  }
  void epoch(std::uint64_t number, std::span<const ring::PageRange> written = {}) {
    const std::array<ring::Vcpu, 2> vcpus{};
    EpochFacts facts;
    facts.number = number;
    facts.vcpus = vcpus;
    facts.written = written;
    layer_->epoch(facts);
  }
  bool show(std::uint64_t packet) { return layer_->packet({1, packet}, 2, ring::Direction::kToGuest, kFrame); }
  void decide(std::uint64_t number, ring::Decision decision) {
    say_bytes(Type::kVerdict, ring::Verdict{number, static_cast<std::uint32_t>(decision), 0});
  }
  void finish(std::uint64_t number) {
    const auto before = layer_->counts().epochs;
    say_bytes(Type::kEpochDone, number);
    while (layer_->counts().epochs == before) std::this_thread::yield();
  }

  Fd memory_;  // of the channel
  std::unique_ptr<ring::Channel> peer_;
  ring::TextParts parts_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::string> notes_;
  std::unique_ptr<RunningLayer> layer_;  // last: its handlers use the rest
};

TEST_F(RunningLayerTest, AnswersCalls) {
  start_ready();
  call("first");
  const ring::Message request = receive();
  EXPECT_EQ(request.type, Type::kRequest);
  EXPECT_THAT(std::string(reinterpret_cast<const char*>(request.payload.data()), request.payload.size()),
              R"({"method":"first","arguments":{"a":1}})");
  say(Type::kAnswer, R"({"result": [{"z": 1, "a": 2}]})", request.id);
  EXPECT_EQ(noted(), R"(result [{"z":1,"a":2}])");
  say(Type::kAnswer, R"({"result": 1})", request.id);  // twice: not heard
  call("second");
  say(Type::kAnswer, R"({"error": {"code": "not-found", "message": "no\u0007 such", "hint": "look"}})", receive().id);
  EXPECT_EQ(noted(), "error not-found layer l: no  such");
}

TEST_F(RunningLayerTest, AnAnswerMayComeInManyParts) {
  start_ready();
  call("long");
  const std::uint64_t id = receive().id;
  const std::string text(1 << 20, 'x');
  say(Type::kAnswer, Json{{"result", text}}.dump(), id);
  EXPECT_EQ(noted(), "result \"" + text + "\"");
}

TEST_F(RunningLayerTest, CallsEndWithoutAnAnswer) {
  start_ready();
  call("late", 1ms);
  EXPECT_THAT(noted(), HasSubstr("error unavailable layer l does not answer"));
  EXPECT_EQ(layer_->counts().late, 1);
  call("cut off");
  layer_.reset();
  EXPECT_THAT(noted(), HasSubstr("error unavailable layer l ended before it answered"));
}

TEST_F(RunningLayerTest, TooManyCallsAreRefused) {
  start_ready();
  for (int i = 0; i < 64; ++i) call("x");
  call("one more");
  EXPECT_THAT(noted(), HasSubstr("error busy"));
}

TEST_F(RunningLayerTest, TellsEpochsAndJoinsThoseThatWereMissed) {
  start_ready();
  const std::array<ring::PageRange, 2> written{ring::PageRange{0x1000, 0x2000}, ring::PageRange{0x8000, 0x1000}};
  epoch(1, written);
  auto seen = epoch_in(receive());
  EXPECT_EQ(seen.number, 1);
  EXPECT_EQ(seen.vcpus, 2);
  EXPECT_EQ(seen.written_all, 1);  // nothing was known before
  epoch(2, written);               // while it is at the first
  finish(1);
  epoch(3, written);
  seen = epoch_in(receive());
  EXPECT_EQ(seen.number, 3);
  EXPECT_EQ(seen.written_all, 1);
  finish(3);
  epoch(4, written);
  const ring::Message fourth = receive();
  seen = epoch_in(fourth);
  EXPECT_EQ(seen.written_all, 0);
  ASSERT_EQ(seen.written, 2);
  ring::PageRange last;
  std::memcpy(&last, fourth.payload.data() + fourth.payload.size() - sizeof last, sizeof last);
  EXPECT_EQ(last.start, 0x8000);
  finish(4);
  const std::vector<ring::PageRange> many(20'000);
  epoch(5, many);
  EXPECT_EQ(epoch_in(receive()).written_all, 1);
}

TEST_F(RunningLayerTest, TellsOnlyWhatWasClaimed) {
  Charter charter = everything();
  charter.memory = charter.written_pages = charter.vcpus = charter.sees_events = charter.sends_events = false;
  start_ready(charter);
  const std::array<ring::PageRange, 1> written{ring::PageRange{0x1000, 0x1000}};
  epoch(1, written);
  const auto seen = epoch_in(receive());
  EXPECT_EQ(seen.vcpus + seen.written + seen.written_all, 0);
  say_bytes(Type::kRead, ring::Read{Memory::kAt, 16}, 5);
  const ring::Message bytes = receive();
  EXPECT_EQ(bytes.type, Type::kBytes);
  EXPECT_TRUE(bytes.payload.empty());
  layer_->event(R"({"kind": "x"})");
  say(Type::kEvent, R"({"kind": "y"})");
  finish(1);  // behind the event
  EXPECT_EQ(layer_->counts().dropped, 1);
  EXPECT_FALSE(peer_->receive());
}

TEST_F(RunningLayerTest, ReadsMemoryForIt) {
  start_ready();
  say_bytes(Type::kRead, ring::Read{Memory::kAt + 3, 4}, 9);
  const ring::Message bytes = receive();
  EXPECT_EQ(bytes.id, 9);
  EXPECT_THAT(bytes.payload, ElementsAre(std::byte{3}, std::byte{4}, std::byte{5}, std::byte{6}));
  for (const ring::Read bad :
       {ring::Read{0, 16}, ring::Read{Memory::kAt, ring::kReadMax + 1}, ring::Read{~0ull, 16}, ring::Read{0, ~0ull}}) {
    say_bytes(Type::kRead, bad, 10);
    EXPECT_TRUE(receive().payload.empty()) << bad.start;
  }
}

TEST_F(RunningLayerTest, PassesAlertsEventsAndWishesOn) {
  start_ready();
  say(Type::kAlert, R"({"severity": "critical", "title": "a\nb", "detail": {"pid": 1}})");
  EXPECT_EQ(noted(), R"(alert critical a b {"pid":1})");
  say(Type::kAlert, R"({"severity": "loud", "title": 5})");
  EXPECT_EQ(noted(), "alert info  {}");
  const std::string long_title(4095, 'a');
  say(Type::kAlert, R"({"severity": "info", "title": ")" + long_title + "\u00e9\"}");  // what goes on has to be UTF-8
  EXPECT_EQ(noted(), "alert info " + long_title + " {}");
  say(Type::kEvent, R"({"kind": "x"})");
  EXPECT_EQ(noted(), R"(event {"kind":"x"})");
  say(Type::kAsk, R"({"action": "checkpoint", "reason": "why"})");
  EXPECT_EQ(noted(), "ask checkpoint why 0");
  layer_->event(R"({"kind": "z"})");
  EXPECT_EQ(receive_text(), R"({"kind": "z"})");
}

TEST_F(RunningLayerTest, AFloodIsDropped) {
  start_ready();
  for (int i = 0; i < 1000; ++i) say(Type::kAlert, R"({"severity": "info", "title": "flood"})");
  epoch(1);
  epoch_in(receive());
  finish(1);  // behind them
  EXPECT_GE(layer_->counts().alerts, 100);
  EXPECT_LT(layer_->counts().alerts, 1000);
  EXPECT_EQ(layer_->counts().alerts + layer_->counts().dropped, 1000);
}

TEST_F(RunningLayerTest, WhoLiesIsEnded) {
  const std::vector<std::pair<Type, std::string>> lies{
      {Type::kAsk, R"({"action": "rollback"})"},
      {Type::kAlert, "[]"},
      {Type::kAlert, "{"},
      {Type::kAnswer, "\xff"},
      {Type::kEvent, "\"a\""},
      {Type::kReady, R"({"abi": 2})"},
      {Type::kReady, R"({"abi": "1"})"},
      {Type::kReady, "{}"},
      {Type::kAlert, std::string(100, '[')},
      {Type::kEpochDone, "x"},
      {Type::kRead, "toolong"},
  };
  for (const auto& [type, text] : lies) {
    start();
    say(type, text);
    EXPECT_THAT(noted(), ::testing::StartsWith("end ")) << text;
    call("after");
    EXPECT_THAT(noted(), HasSubstr("error busy"));
  }
}

TEST_F(RunningLayerTest, WhoIsTooSlowIsEnded) {
  Charter charter = everything();
  charter.budget = 1ms;
  start_ready(charter);
  epoch(1);
  EXPECT_THAT(noted(), HasSubstr("end it has not finished an epoch in 10 ms"));
  EXPECT_EQ(layer_->counts().late, 1);
}

TEST_F(RunningLayerTest, WhoDoesNotReadKeepsNobodyWaiting) {
  start_ready();
  const std::vector<ring::PageRange> written(4000);
  for (std::uint64_t number = 1; number < 200; ++number) {
    epoch(number, written);
    say_bytes(Type::kEpochDone, number);  // it says so without having read
    while (layer_->counts().epochs + layer_->counts().late < number) std::this_thread::yield();
  }
  EXPECT_GT(layer_->counts().late, 0);
  call("x", 1ms);
  EXPECT_THAT(noted(), HasSubstr("error"));
}

TEST_F(RunningLayerTest, ShowsPacketsAndTakesVerdicts) {
  start();
  EXPECT_FALSE(show(70));  // it is not ready
  say(Type::kReady, R"({"abi": 1, "version": "2"})");
  EXPECT_EQ(noted(), "ready 2");
  EXPECT_TRUE(show(71));
  const ring::Message message = receive();
  ASSERT_EQ(message.type, Type::kPacket);
  ring::Packet head;
  ASSERT_EQ(message.payload.size(), sizeof head + kFrame.size());
  std::memcpy(&head, message.payload.data(), sizeof head);
  EXPECT_EQ(head.number, 1u);
  EXPECT_EQ(head.nic, 2u);
  EXPECT_EQ(head.direction, 1u);
  EXPECT_EQ(head.bytes, kFrame.size());
  EXPECT_EQ(message.payload.back(), std::byte{3});
  decide(1, ring::Decision::kHold);
  EXPECT_EQ(noted(), "verdict 1/71 2 0");
  decide(1, ring::Decision::kPass);
  EXPECT_EQ(noted(), "verdict 1/71 0 0");
  decide(2, ring::Decision::kPass);
  EXPECT_THAT(noted(), HasSubstr("end it decides about a packet that it was not shown"));
  EXPECT_FALSE(show(72));
}

TEST_F(RunningLayerTest, WhoDecidesWhatItDoesNotClaimIsEnded) {
  Charter charter = everything();
  charter.network = NetworkClaim::kSee;
  start_ready(charter);
  EXPECT_TRUE(show(1));
  decide(1, ring::Decision::kDrop);
  EXPECT_THAT(noted(), HasSubstr("end it drops a packet, and its manifest claims no more than network see"));
}

TEST_F(RunningLayerTest, WhoForgetsAPacketIsEnded) {
  Charter charter = everything();
  charter.budget = 1ms;
  start_ready(charter);
  EXPECT_TRUE(show(1));
  EXPECT_THAT(noted(), HasSubstr("end it has not decided about a packet in 10 ms"));
}

TEST_F(RunningLayerTest, PacketsWaitForNobodyWhoWaitsForRoom) {
  start_ready();
  std::uint64_t shown = 0;
  while (show(shown + 1)) ++shown;
  EXPECT_GT(shown, 5000u);               // of a megabyte
  std::thread slow([&] { call("x"); });  // has no room either
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(show(1));
  for (std::uint64_t number = 1; number <= shown; ++number) EXPECT_EQ(receive().type, Type::kPacket);
  EXPECT_TRUE(show(shown + 1));
  slow.join();
}

TEST_F(RunningLayerTest, WhoForgesItsIndexIsEndedByWhoeverSends) {
  start_ready();
  ring::testing::Forger forger(memory_);
  forger.put(forger.kToLayer + forger.kConsumed, ~0ull);
  while (show(1)) {
  }
  EXPECT_THAT(noted(), HasSubstr("forged how much it consumed"));
}

}  // namespace
}  // namespace mhv::stack
