#include "ring/ring.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <random>
#include <thread>

#include "base/code_of_test.h"
#include "base/temp_folder_test.h"
#include "ring/testing.h"

namespace mhv::ring {
namespace {

using testing::Forger;
using testing::Pair;
using testing::patience;

constexpr auto kNever = std::chrono::steady_clock::time_point::max();

std::vector<std::byte> content(std::uint64_t seed, std::size_t bytes) {
  std::vector<std::byte> out(bytes);
  std::uint64_t x = seed * 0x9e3779b97f4a7c15 + 1;
  for (std::size_t at = 0; at < bytes; at += sizeof x) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    std::memcpy(out.data() + at, &x, std::min(sizeof x, bytes - at));
  }
  return out;
}

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(Ring, CarriesEveryPayloadSizeAcrossItsEnd) {
  Pair pair;
  const auto all = content(1, kPayloadMax);
  std::vector<std::size_t> sizes;
  for (std::size_t n = 0; n < 4200; ++n) sizes.push_back(n);
  for (std::size_t n = 4200; n < kPayloadMax; n += 127) sizes.push_back(n);
  sizes.push_back(kPayloadMax);
  for (const std::size_t n : sizes) {
    ASSERT_TRUE(pair.engine.send(Type::kEpoch, n, std::span(all).first(n), 7));
    const auto message = pair.layer.receive();
    ASSERT_TRUE(message);
    ASSERT_EQ(message->type, Type::kEpoch);
    ASSERT_EQ(message->flags, 7);
    ASSERT_EQ(message->id, n);
    ASSERT_TRUE(std::ranges::equal(message->payload, std::span(all).first(n))) << n;
    ASSERT_FALSE(pair.layer.receive());
  }
  EXPECT_EQ(code_of([&] { pair.engine.send(Type::kEpoch, 0, std::vector<std::byte>(kPayloadMax + 1)); }), Code::kInvalid);
  EXPECT_FALSE(pair.layer.receive());
}

TEST(Ring, BothDirectionsAreApart) {
  Pair pair;
  ASSERT_TRUE(pair.engine.send(Type::kEpoch, 1, bytes_of("down")));
  ASSERT_TRUE(pair.layer.send(Type::kLog, 2, bytes_of("up")));
  EXPECT_EQ(pair.engine.receive()->id, 2u);
  EXPECT_EQ(pair.layer.receive()->id, 1u);
  EXPECT_FALSE(pair.engine.receive());
  EXPECT_FALSE(pair.layer.receive());
}

TEST(Ring, AFullRingRefusesAndGoesOnWhenThereIsRoom) {
  Pair pair;
  const auto payload = content(3, 1000);  // 1016 with its head, 1024 in the ring
  std::uint64_t sent = 0;
  while (pair.engine.send(Type::kEvent, sent, payload)) ++sent;
  EXPECT_EQ(sent, kRingBytes / 1024);
  EXPECT_FALSE(pair.engine.send(Type::kEvent, 0, {}));
  EXPECT_FALSE(pair.engine.send_until(std::chrono::steady_clock::now(), Type::kEvent, 0, {}));
  for (std::uint64_t i = 0; i < 3000; ++i) {
    const auto message = pair.layer.receive();
    ASSERT_TRUE(message && message->id == i && message->payload == payload);
    ASSERT_TRUE(pair.engine.send(Type::kEvent, sent++, payload));
    ASSERT_FALSE(pair.engine.send(Type::kEvent, 0, {}));
  }
}

// `count` messages of changing sizes, in bursts; the sizes follow from the numbers.
std::size_t size_of(std::uint64_t number) { return number % 1000 == 0 ? 60'000 : (number * 2654435761u) % 97; }

void send_all(Channel& channel, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    if (!channel.send_until(patience(), Type::kBytes, i, content(i, size_of(i)))) throw Error(Code::kBusy, "full for ever");
  }
}

// The number of the first that is not as it was sent; `count`: all are.
std::uint64_t receive_all(Channel& channel, std::uint64_t count, std::chrono::microseconds spin) {
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto message = channel.receive_until(patience(), spin);
    if (!message || message->id != i || message->payload != content(i, size_of(i))) return i;
  }
  return count;
}

TEST(Ring, AMillionMessagesBetweenThreadsBothWays) {
  constexpr std::uint64_t kCount = 500'000;  // each way
  Pair pair;
  std::uint64_t down = 0, up = 0;
  std::thread layer_sends([&] { send_all(pair.layer, kCount); });
  std::thread engine_sends([&] { send_all(pair.engine, kCount); });
  std::thread layer_receives([&] { down = receive_all(pair.layer, kCount, std::chrono::microseconds(0)); });
  up = receive_all(pair.engine, kCount, std::chrono::microseconds(20));
  layer_receives.join();
  layer_sends.join();
  engine_sends.join();
  EXPECT_EQ(down, kCount);
  EXPECT_EQ(up, kCount);
}

TEST(Ring, AMillionMessagesBetweenProcesses) {
  constexpr std::uint64_t kCount = 1'000'000;
  NewChannel channel = make_channel();
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    try {
      channel.engine = {};
      Channel layer(std::move(channel.layer), Side::kLayer);
      send_all(layer, kCount);
      ::_exit(0);
    } catch (...) {
      ::_exit(1);
    }
  }
  channel.layer = {};
  Channel engine(std::move(channel.engine), Side::kEngine);
  EXPECT_EQ(receive_all(engine, kCount, std::chrono::microseconds(0)), kCount);
  EXPECT_EQ(code_of([&] { engine.receive_until(patience()); }), Code::kGone);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// Each sleeps until the other wakes it: one wake that is lost ends it. What both do before they sleep takes longer and shorter.
TEST(Ring, NoWakeIsLost) {
  constexpr std::uint64_t kRounds = 100'000;
  Pair pair;
  const auto play = [](Channel& channel, bool begins) {
    std::mt19937 random(begins ? 1 : 2);
    std::uint64_t sink = 0;
    for (std::uint64_t round = 0; round < kRounds; ++round) {
      if (begins && !channel.send(Type::kEvent, round, {})) return round;
      for (unsigned i = random() % 400; i > 0; --i) sink = sink + i;
      asm volatile("" : : "r"(sink));
      const auto message = channel.receive_until(patience(), std::chrono::microseconds(random() % 3));
      if (!message || message->id != round) return round;
      if (!begins && !channel.send(Type::kEvent, round, {})) return round;
    }
    return kRounds;
  };
  std::uint64_t rounds = 0;
  std::thread other([&] { rounds = play(pair.layer, false); });
  EXPECT_EQ(play(pair.engine, true), kRounds);
  other.join();
  EXPECT_EQ(rounds, kRounds);
}

TEST(Ring, IsWaitedForTogetherWithOtherDescriptors) {
  Pair pair;
  const auto readable = [&] {
    pollfd polled{pair.engine.wake_fd(), POLLIN, 0};
    return ::poll(&polled, 1, 0) == 1;
  };
  ASSERT_TRUE(pair.layer.send(Type::kLog, 1, {}));
  EXPECT_FALSE(readable());  // nobody wanted it
  EXPECT_FALSE(pair.engine.want_wake());
  EXPECT_TRUE(pair.engine.receive());
  EXPECT_TRUE(pair.engine.want_wake());
  EXPECT_FALSE(readable());
  ASSERT_TRUE(pair.layer.send(Type::kLog, 2, {}));
  EXPECT_TRUE(readable());
  EXPECT_TRUE(pair.engine.receive());
  EXPECT_TRUE(pair.engine.want_wake());  // and takes the old wake
  EXPECT_FALSE(readable());
}

TEST(Ring, SaysThatThePeerEndedAfterAllThatItSent) {
  NewChannel channel = make_channel();
  Channel engine(std::move(channel.engine), Side::kEngine);
  {
    Channel layer(std::move(channel.layer), Side::kLayer);
    ASSERT_TRUE(layer.send(Type::kLog, 1, bytes_of("last words")));
    ASSERT_TRUE(layer.want_wake());
  }
  ASSERT_TRUE(engine.receive_until(kNever));
  EXPECT_EQ(code_of([&] { engine.receive_until(kNever); }), Code::kGone);
  EXPECT_EQ(code_of([&] { engine.want_wake(); }), Code::kGone);
  EXPECT_TRUE(engine.send(Type::kStop, 0, {}));  // wakes nobody, and raises no signal
}

TEST(Ring, WithoutWakesBothSidesPoll) {
  NewChannel channel = make_channel();
  for (Ends* ends : {&channel.engine, &channel.layer}) {
    ends->wakes_me.close();
    ends->wakes_peer.close();
  }
  Pair pair(std::move(channel));
  EXPECT_EQ(pair.engine.wake_fd(), -1);
  EXPECT_FALSE(pair.layer.receive_until(std::chrono::steady_clock::now()));
  std::uint64_t got = 0;
  std::thread layer([&] { got = receive_all(pair.layer, 20'000, std::chrono::microseconds(0)); });
  send_all(pair.engine, 20'000);
  layer.join();
  EXPECT_EQ(got, 20'000u);
}

// As the resource file of a device: no seals, and larger than a channel.
TEST(Ring, ALayerTakesAPlainFileAndTheEngineDoesNot) {
  TempFolder folder;
  const Fd file = Fd::open(folder.file("resource2"), O_RDWR | O_CREAT);
  ASSERT_EQ(::ftruncate(file.get(), kChannelFileBytes), 0);
  begin_channel(file);
  Channel layer({file.duplicate(), {}, {}}, Side::kLayer);
  ASSERT_TRUE(layer.send(Type::kLog, 5, bytes_of("x")));
  EXPECT_EQ(code_of([&] { Channel({file.duplicate(), {}, {}}, Side::kEngine); }), Code::kCorrupt);
  ASSERT_EQ(::ftruncate(file.get(), kChannelBytes - 1), 0);
  EXPECT_EQ(code_of([&] { Channel({file.duplicate(), {}, {}}, Side::kLayer); }), Code::kCorrupt);
}

TEST(Ring, ItsMemoryKeepsItsSize) {
  const NewChannel channel = make_channel();
  EXPECT_NE(::ftruncate(channel.layer.memory.get(), 4096), 0);
  EXPECT_NE(::ftruncate(channel.layer.memory.get(), 8 << 20), 0);
  EXPECT_NE(::fcntl(channel.layer.memory.get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
}

TEST(Ring, RefusesWhatIsNoNewChannelOfItsAbi) {
  const auto refused = [](const std::function<void(Forger&)>& forge, Side side) {
    NewChannel channel = make_channel();
    Forger forger(channel.engine.memory);
    forge(forger);
    return code_of([&] { Channel(std::move(side == Side::kEngine ? channel.engine : channel.layer), side); });
  };
  for (const Side side : {Side::kEngine, Side::kLayer}) {
    EXPECT_EQ(refused([](Forger& f) { f.put<std::uint64_t>(0, 1); }, side), Code::kCorrupt);
    EXPECT_EQ(refused([](Forger& f) { f.put<std::uint32_t>(8, kAbi + 1); }, side), Code::kVersion);
    EXPECT_EQ(refused([](Forger& f) { f.put<std::uint32_t>(12, 4096); }, side), Code::kVersion);
  }
  constexpr std::size_t kProducedUp = Forger::kToEngine + Forger::kProduced, kConsumedUp = Forger::kToEngine + Forger::kConsumed;
  EXPECT_EQ(refused([](Forger& f) { f.put<std::uint64_t>(kProducedUp, 16); }, Side::kLayer), Code::kCorrupt);
  EXPECT_EQ(refused([](Forger& f) { f.put<std::uint64_t>(kConsumedUp, 16); }, Side::kEngine), Code::kCorrupt);
}

class HostileLayer : public ::testing::Test {
 protected:
  HostileLayer() : HostileLayer(make_channel()) {}

  void produced(std::uint64_t value) { forger_.put(Forger::kToEngine + Forger::kProduced, value); }
  void consumed(std::uint64_t value) { forger_.put(Forger::kToLayer + Forger::kConsumed, value); }
  void record(std::uint64_t at, std::uint32_t bytes, std::uint16_t type = 71) {
    forger_.put_record(Forger::kBytesToEngine + at, bytes, type, 0, 0);
  }
  Code received() {
    return code_of([&] { engine_.receive(); });
  }

  Ends ends_;
  Forger forger_;
  Channel engine_;

 private:
  explicit HostileLayer(NewChannel channel)
      : ends_(std::move(channel.layer)), forger_(ends_.memory), engine_(std::move(channel.engine), Side::kEngine) {}
};

TEST_F(HostileLayer, ForgesHowMuchItProduced) {
  for (const std::uint64_t value : {std::uint64_t{kRingBytes} + 16, std::uint64_t{1} << 63, ~std::uint64_t{0}, ~std::uint64_t{15},
                                    std::uint64_t{1}, std::uint64_t{24}, std::uint64_t{kRingBytes} - 1}) {
    produced(value);
    EXPECT_EQ(received(), Code::kCorrupt) << value;
    EXPECT_EQ(code_of([&] { engine_.want_wake(); }), Code::kCorrupt) << value;
  }
}

TEST_F(HostileLayer, TakesBackWhatItProduced) {
  record(0, 100);
  produced(128);
  ASSERT_TRUE(engine_.receive());
  produced(112);
  EXPECT_EQ(received(), Code::kCorrupt);
  produced(0);
  EXPECT_EQ(received(), Code::kCorrupt);
}

TEST_F(HostileLayer, ForgesHowMuchItConsumed) {
  std::uint64_t sent = 0;
  while (engine_.send(Type::kEvent, sent, {})) ++sent;
  for (const std::uint64_t value : {std::uint64_t{kRingBytes} + 16, ~std::uint64_t{0}, std::uint64_t{1} << 63}) {
    consumed(value);
    EXPECT_EQ(code_of([&] { engine_.send(Type::kEvent, 0, {}); }), Code::kCorrupt) << value;
  }
  consumed(16);
  EXPECT_TRUE(engine_.send(Type::kEvent, 0, {}));
  consumed(0);
  EXPECT_EQ(code_of([&] { engine_.send(Type::kEvent, 0, {}); }), Code::kCorrupt);
}

TEST_F(HostileLayer, SendsRecordsLongerThanWhatIsThere) {
  produced(64);
  for (const std::uint32_t bytes : {49u, 64u, 100'000u}) {
    record(0, bytes);
    EXPECT_EQ(received(), Code::kCorrupt) << bytes;
  }
  record(0, 48);
  EXPECT_EQ(engine_.receive()->payload.size(), 48u);
}

TEST_F(HostileLayer, SendsRecordsThatAreTooLong) {
  produced(kRingBytes);
  for (const std::uint32_t bytes :
       {static_cast<std::uint32_t>(kPayloadMax) + 1, kRingBytes - 16, 0x7fff'ffffu, 0xffff'fff0u, 0xffff'ffffu}) {
    record(0, bytes);
    EXPECT_EQ(received(), Code::kCorrupt) << bytes;
  }
  record(0, kPayloadMax);
  EXPECT_EQ(engine_.receive()->payload.size(), kPayloadMax);
}

TEST_F(HostileLayer, MaySayAnyType) {
  std::uint64_t at = 0;
  for (const std::uint16_t type : {0, 1, 63, 72, 999, 65535}) {
    record(at, 0, type);
    produced(at += 16);
    EXPECT_EQ(engine_.receive()->type, static_cast<Type>(type));
  }
}

// Its own socket blocks and is full of wakes, and it says that it sleeps: the engine goes on.
TEST_F(HostileLayer, CannotMakeAWakeBlock) {
  ASSERT_EQ(::fcntl(ends_.wakes_me.get(), F_SETFL, 0), 0);
  ASSERT_EQ(::fcntl(ends_.wakes_peer.get(), F_SETFL, 0), 0);
  const std::vector<char> flood(1 << 16);
  while (::send(ends_.wakes_peer.get(), flood.data(), flood.size(), MSG_DONTWAIT) > 0) {
  }
  Message taken;
  for (int i = 0; i < 200'000; ++i) {
    forger_.put<std::uint32_t>(Forger::kToLayer + Forger::kSleeps, 1);
    ASSERT_TRUE(engine_.send(Type::kEvent, 0, {}));
    consumed((static_cast<std::uint64_t>(i) + 1) * 16);
  }
  EXPECT_FALSE(engine_.receive_until(std::chrono::steady_clock::now() + std::chrono::milliseconds(1)));
}

TEST(TextParts, PutsTextsTogetherThatCameInTurns) {
  Pair pair;
  std::string first(300'000, 'a'), second(kPayloadMax, 'b');
  first.back() = 'z';
  ASSERT_TRUE(pair.engine.send_text(patience(), Type::kRequest, 1, first));
  ASSERT_TRUE(pair.engine.send_text(patience(), Type::kRequest, 2, second));
  ASSERT_TRUE(pair.engine.send_text(patience(), Type::kEvent, 1, ""));
  std::vector<Message> messages;
  while (auto message = pair.layer.receive()) messages.push_back(std::move(*message));
  ASSERT_EQ(messages.size(), 5u);
  std::swap(messages[2], messages[4]);  // the last part of the first text
  TextParts parts;
  EXPECT_FALSE(parts.add(messages[0]));
  EXPECT_FALSE(parts.add(messages[1]));
  EXPECT_EQ(parts.add(messages[2]), "");
  EXPECT_EQ(parts.add(messages[3]), second);
  EXPECT_EQ(parts.add(messages[4]), first);
}

TEST(TextParts, HaveCaps) {
  const Message more{Type::kAnswer, kMore, 1, std::vector<std::byte>(kPayloadMax)};
  TextParts parts;
  for (std::size_t i = 0; i < kTextMax / kPayloadMax; ++i) EXPECT_FALSE(parts.add(more));
  EXPECT_EQ(code_of([&] { parts.add(more); }), Code::kInvalid);
  EXPECT_EQ(parts.add({Type::kAnswer, 0, 1, {}})->size(), kTextMax);  // and what was there is whole
  EXPECT_FALSE(parts.add(more));

  TextParts many;
  std::size_t open = 0;
  EXPECT_EQ(code_of([&] {
              for (; open < 100'000; ++open) many.add({Type::kAnswer, kMore, open, {}});
            }),
            Code::kInvalid);
  EXPECT_LT(open, 1000u);
}

}  // namespace
}  // namespace mhv::ring
