// The worker's packet path with layers that are one end of a ring, and taps that are socket pairs, which keep packets apart as taps do.
#include "worker/packet_work.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <array>
#include <cstring>
#include <string>

#include "base/error.h"

namespace mhv::worker {
namespace {

using namespace std::chrono_literals;
using ring::Decision;
using ring::Direction;
using ring::Type;

// Of letters, each a packet: its header, and a frame that begins with the letter.
std::string packet_of(char letter) { return std::string(net::kPacketHeader, '\1') + letter + std::string(59, '.'); }

stack::Charter charter_of(const std::string& name, stack::NetworkClaim claim, bool fail_closed) {
  stack::Charter out;
  out.name = name;
  out.network = claim;
  out.fail_closed = fail_closed;
  out.budget = 1h;
  return out;
}

class NoMemory : public stack::GuestMemory {
  bool read(std::uint64_t, std::span<std::byte>) const override { return false; }
};

// A layer that does what the test says, and the engine's end of it.
class FakeLayer {
 public:
  FakeLayer(PacketWork& work, stack::Charter charter) : work_(work), name_(charter.name) {
    ring::NewChannel channel = ring::make_channel();
    stack::RunningLayer::Handlers handlers;
    handlers.on_ready = [this](const std::string&) { ready_ = true; };
    handlers.on_verdict = [this](stack::PacketVerdict said) { work_.verdict(std::move(said)); };
    handlers.on_end = [](const std::string&) {};
    running_ = std::make_shared<stack::RunningLayer>(std::move(channel.engine), std::move(charter), "{}", std::make_shared<NoMemory>(),
                                                     std::move(handlers));
    peer_ = std::make_unique<ring::Channel>(std::move(channel.layer), ring::Side::kLayer);
    next();
    work_.layer_up(name_, running_);
  }
  ~FakeLayer() { work_.layer_down(name_); }

  FakeLayer& be_ready() {
    peer_->send_text(std::chrono::steady_clock::now() + 10s, Type::kReady, 0, R"({"abi": 1, "version": "1"})");
    while (!ready_) std::this_thread::yield();
    return *this;
  }
  ring::Message next() {
    auto message = peer_->receive_until(std::chrono::steady_clock::now() + 30s);
    if (!message) throw Error(Code::kUnavailable, "the layer is told nothing");
    return std::move(*message);
  }
  // The letters of the next packets, with what else is known of the last one.
  std::string shown(std::size_t packets) {
    std::string out;
    while (packets-- > 0) {
      const ring::Message message = next();
      EXPECT_EQ(message.type, Type::kPacket);
      std::memcpy(&last, message.payload.data(), sizeof last);
      EXPECT_EQ(message.payload.size(), sizeof last + 60);
      out += static_cast<char>(message.payload.at(sizeof last));
    }
    return out;
  }
  void decide(std::uint64_t number, Decision decision, const std::string& frame = "") {
    const ring::Verdict head{number, static_cast<std::uint32_t>(decision), static_cast<std::uint32_t>(frame.size())};
    std::vector<std::byte> payload(sizeof head + frame.size());
    std::memcpy(payload.data(), &head, sizeof head);
    std::memcpy(payload.data() + sizeof head, frame.data(), frame.size());
    ASSERT_TRUE(peer_->send(Type::kVerdict, number, payload));
  }

  ring::Packet last;

 private:
  PacketWork& work_;
  const std::string name_;
  std::atomic<bool> ready_ = false;
  std::unique_ptr<ring::Channel> peer_;
  std::shared_ptr<stack::RunningLayer> running_;
};

class PacketWorkTest : public ::testing::Test {
 protected:
  static constexpr std::size_t kOut = 0, kIn = 1;  // of ends_: what the guest sends, what it is sent

  void add_tap(std::uint32_t nic = 3) {
    protocol::WorkerTaps taps;
    auto& tap = *taps.add_added();
    tap.set_name("tap0");
    tap.set_nic(nic);
    tap.set_to_guest_fd(1);
    std::vector<Fd> fds;
    for (Fd& end : ends_) {
      std::array<int, 2> pair{};
      ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair.data()), 0);
      end = Fd::own(pair[0]);
      const timeval patience{30, 0};
      ASSERT_EQ(::setsockopt(end.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
      ASSERT_EQ(::fcntl(pair[1], F_SETFL, O_NONBLOCK), 0);
      fds.push_back(Fd::own(pair[1]));
    }
    work_.change_taps(taps, std::move(fds));
  }
  void remove_tap() {
    protocol::WorkerTaps taps;
    taps.add_removed("tap0");
    work_.change_taps(taps, {});
  }
  void send(const std::string& letters, std::size_t end = kOut) {
    for (const char letter : letters) {
      const std::string packet = packet_of(letter);
      ASSERT_EQ(::send(ends_[end].get(), packet.data(), packet.size(), 0), static_cast<ssize_t>(packet.size()));
    }
  }
  std::string receive(std::size_t packets, std::size_t end = kOut) {
    std::string out;
    while (packets-- > 0) {
      const ssize_t n = ::recv(ends_[end].get(), bytes_.data(), bytes_.size(), 0);
      if (n <= static_cast<ssize_t>(net::kPacketHeader)) return out + "!";
      out += bytes_[net::kPacketHeader];
    }
    return out;
  }
  bool nothing_comes(std::size_t end = kOut) {
    char c = 0;
    return ::recv(ends_[end].get(), &c, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
  }
  void wait_for(const std::string& layer, std::uint64_t packets) {
    while (work_.counts(layer).packets < packets) std::this_thread::yield();
  }

  std::array<Fd, 2> ends_;
  std::array<char, 200> bytes_{};
  PacketWork work_;
};

const stack::Charter kOpen = charter_of("open", stack::NetworkClaim::kDrop, false);
const stack::Charter kClosed = charter_of("closed", stack::NetworkClaim::kDrop, true);

TEST_F(PacketWorkTest, WithoutALayerItsPolicyDecides) {
  work_.configure({kOpen});
  add_tap();
  send("ab");
  send("c", kIn);
  EXPECT_EQ(receive(2), "ab");
  EXPECT_EQ(receive(1, kIn), "c");
  EXPECT_EQ(work_.counts("open").late, 3u);
  work_.configure({kOpen, kClosed});
  send("de");
  wait_for("closed", 2);
  EXPECT_TRUE(nothing_comes());
  EXPECT_EQ(work_.counts("closed").dropped, 2u);
  EXPECT_EQ(work_.counts("closed").late, 2u);
  work_.configure({});
  send("f");
  EXPECT_EQ(receive(1), "f");
}

TEST_F(PacketWorkTest, ALayerIsShownBothWaysAndDecides) {
  work_.configure({kClosed});
  add_tap();
  FakeLayer layer(work_, kClosed);
  send("a");
  wait_for("closed", 1);  // it is not ready
  layer.be_ready();
  send("bcd");
  EXPECT_EQ(layer.shown(3), "bcd");
  EXPECT_EQ(layer.last.nic, 3u);
  EXPECT_EQ(layer.last.direction, static_cast<std::uint32_t>(Direction::kFromGuest));
  EXPECT_EQ(layer.last.number, 3u);
  layer.decide(2, Decision::kDrop);
  layer.decide(1, Decision::kHold);
  layer.decide(3, Decision::kReplace, "R" + std::string(40, '.'));
  EXPECT_TRUE(nothing_comes());
  layer.decide(1, Decision::kPass);
  EXPECT_EQ(receive(2), "bR");
  EXPECT_EQ(std::string(bytes_.data(), net::kPacketHeader), std::string(net::kPacketHeader, '\0'));  // nothing is left to a device
  send("z", kIn);
  EXPECT_EQ(layer.shown(1), "z");
  EXPECT_EQ(layer.last.direction, static_cast<std::uint32_t>(Direction::kToGuest));
  layer.decide(4, Decision::kPass);
  EXPECT_EQ(receive(1, kIn), "z");
}

TEST_F(PacketWorkTest, WhoSeesOnlyKeepsNothingWaiting) {
  const stack::Charter sees = charter_of("sees", stack::NetworkClaim::kSee, true);
  work_.configure({sees});
  add_tap();
  FakeLayer layer(work_, sees);
  layer.be_ready();
  send("abc");
  EXPECT_EQ(receive(3), "abc");  // without a verdict
  EXPECT_EQ(layer.shown(3), "abc");
  layer.decide(1, Decision::kPass);
}

TEST_F(PacketWorkTest, LayersAreAskedInTheirOrderAndWhoComesLaterToo) {
  work_.configure({kClosed});
  add_tap();
  FakeLayer second(work_, kClosed);
  second.be_ready();
  work_.configure({kOpen, kClosed});
  FakeLayer first(work_, kOpen);
  first.be_ready();
  send("ab");
  EXPECT_EQ(first.shown(2), "ab");
  first.decide(1, Decision::kDrop);
  first.decide(2, Decision::kPass);
  EXPECT_EQ(second.shown(1), "b");
  second.decide(1, Decision::kPass);
  EXPECT_EQ(receive(1), "b");
}

TEST_F(PacketWorkTest, WhatALayerHasWhenItEndsIsDecidedByItsPolicy) {
  for (const stack::Charter& charter : {kOpen, kClosed}) {
    work_.configure({charter});
    add_tap();
    auto layer = std::make_unique<FakeLayer>(work_, charter);
    layer->be_ready();
    send("abc");
    EXPECT_EQ(layer->shown(3), "abc");
    layer->decide(1, Decision::kHold);
    layer.reset();
    send("d");
    wait_for(charter.name, 4);
    if (charter.fail_closed) {
      EXPECT_TRUE(nothing_comes());
    } else {
      EXPECT_EQ(receive(4), "abcd");
    }
    auto again = std::make_unique<FakeLayer>(work_, charter);
    again->be_ready();
    send("e");
    EXPECT_EQ(again->shown(1), "e");
    again->decide(1, Decision::kPass);
    EXPECT_EQ(receive(1), "e");
    again.reset();
    remove_tap();
    EXPECT_EQ(work_.counts(charter.name).packets, 5u);  // those of before count
  }
}

TEST_F(PacketWorkTest, OfATapThatIsShutNothingGoesOn) {
  work_.configure({kOpen});
  add_tap();
  FakeLayer layer(work_, kOpen);
  layer.be_ready();
  send("abc");
  EXPECT_EQ(layer.shown(3), "abc");
  layer.decide(1, Decision::kHold);
  protocol::WorkerTaps shut;
  shut.add_removed("tap0");
  shut.set_drop(true);
  work_.change_taps(shut, {});
  layer.decide(1, Decision::kPass);  // to nobody
  char c = 0;
  EXPECT_EQ(::recv(ends_[kOut].get(), &c, 1, 0), 0);  // the end, and nothing before it
  EXPECT_EQ(work_.counts("open").packets, 3u);
  add_tap();
  send("d");
  EXPECT_EQ(layer.shown(1), "d");
}

TEST_F(PacketWorkTest, WhoIsLateIsDecidedForByItsPolicy) {
  stack::Charter charter = kOpen;
  charter.budget = 5ms;
  work_.configure({charter});
  add_tap();
  FakeLayer layer(work_, charter);
  layer.be_ready();
  send("ab");
  EXPECT_EQ(receive(2), "ab");
  EXPECT_EQ(work_.counts("open").late, 2u);
  EXPECT_EQ(layer.shown(2), "ab");
  layer.decide(1, Decision::kDrop);  // it has left
}

// The ring is full, the budget an hour: what does not fit is its policy's, and the path goes on reading.
TEST_F(PacketWorkTest, WhoDoesNotReadKeepsNobodyFromReading) {
  work_.configure({kClosed});
  add_tap();
  FakeLayer layer(work_, kClosed);
  layer.be_ready();
  std::uint64_t sent = 0;
  while (work_.counts("closed").late == 0) {
    send("x");
    wait_for("closed", ++sent);
  }
  EXPECT_GT(sent, 1000u);
  send("yz");
  wait_for("closed", sent + 2);
  EXPECT_EQ(work_.counts("closed").late, 3u);
  EXPECT_TRUE(nothing_comes());
}

TEST_F(PacketWorkTest, ATapThatGoesTakesNothingWithItThatMayPass) {
  work_.configure({kOpen});
  add_tap();
  FakeLayer layer(work_, kOpen);
  layer.be_ready();
  send("ab");
  EXPECT_EQ(layer.shown(2), "ab");
  remove_tap();
  EXPECT_EQ(receive(2), "ab");
  layer.decide(1, Decision::kDrop);  // of a tap that is gone
  add_tap();
  send("c");
  EXPECT_EQ(layer.shown(1), "c");
  layer.decide(3, Decision::kPass);
  EXPECT_EQ(receive(1), "c");
  work_.remove_all_taps();
  EXPECT_EQ(receive(1), "!");
}

TEST_F(PacketWorkTest, AnotherOrderOfTheSameLayers) {
  work_.configure({kOpen, kClosed});
  add_tap();
  FakeLayer one(work_, kOpen), two(work_, kClosed);
  one.be_ready();
  two.be_ready();
  work_.configure({kClosed, kOpen});
  send("a");
  EXPECT_EQ(two.shown(1), "a");
  two.decide(1, Decision::kPass);
  EXPECT_EQ(one.shown(1), "a");
  one.decide(1, Decision::kPass);
  EXPECT_EQ(receive(1), "a");
}

TEST_F(PacketWorkTest, DescriptorsThatAreNotThereAreRefused) {
  protocol::WorkerTaps taps;
  taps.add_added()->set_name("tap0");
  EXPECT_THROW(work_.change_taps(taps, {}), Error);
}

}  // namespace
}  // namespace mhv::worker
