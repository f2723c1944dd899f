// The tap swap on a Linux bridge, with every kernel object real. Needs root; says so and skips otherwise.
#include "net/tap_swap.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <atomic>
#include <thread>

#include "base/error.h"
#include "net/lab_test.h"
#include "net/tap.h"

namespace mhv::net::testing {
namespace {

using ::testing::HasSubstr;

class NoOvs : public Switch {
 public:
  bool has_port(const std::string&) override { return false; }
  void reopen(const std::string&, int) override {}
};

Error error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& e) {
    return e;
  }
  ADD_FAILURE() << "nothing was thrown";
  return Error(Code::kInternal, "");
}

class TapSwapTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!enter_lab().empty()) GTEST_SKIP() << enter_lab();
    links_ = links();
    sh("ip link add br0 type bridge && ip link set br0 up");
    sh("ip link add far0 type veth peer name far1 && ip link set far0 master br0 up && ip link set far1 up");
    guest_.emplace("tap0");
    sh("ip link set tap0 address fe:54:00:00:00:01 mtu 1450 txqueuelen 777 master br0 up");
    sh("ip link set tap0 type bridge_slave guard on cost 77");
    outside_.emplace("far1");
    folder_.emplace();
    namespaces_.emplace(folder_->path() + "/netns");
    before_ = description();
  }
  void TearDown() override {
    if (IsSkipped()) return;
    guest_.reset();
    if (namespaces_) namespaces_->remove("tap0");
    ::system("ip link del br0; ip link del far0; ip link del tap0 2>/dev/null");
    EXPECT_EQ(links(), links_);
  }

  TapSwap swap(std::function<void()> before_change = {}) { return TapSwap(*namespaces_, ovs_, std::move(before_change)); }

  static std::string links() { return output_of("ip -o link | cut -d: -f2 | sort"); }
  // What an operator would see of the tap, but for its counters and its number.
  static std::string description() {
    return output_of(
        "ip -d -o link show tap0 | sed 's/^[0-9]*: //; s/\\<if\\(index\\|group\\) [0-9]*//; s/port_no [0-9a-fx]*//; "
        "s/\\(port_id\\|designated_port\\) [0-9a-fx]*//g; s/\\(hold\\|message_age\\|forward_delay\\)_timer *[0-9.]*//g'");
  }
  void expect_both_ways(std::uint32_t number) {
    EXPECT_TRUE(guest_->send(number));
    EXPECT_EQ(outside_->receive(), number);
    EXPECT_TRUE(outside_->send(number + 1));
    EXPECT_EQ(guest_->receive(), number + 1);
  }
  void expect_plain() {
    EXPECT_EQ(description(), before_);
    EXPECT_FALSE(namespaces_->find("tap0"));
    EXPECT_EQ(output_of("ip -o link | grep -c mhv"), "0\n");
    EXPECT_TRUE(std::filesystem::is_empty(folder_->path() + "/netns"));
    expect_both_ways(900);
  }

  NoOvs ovs_;
  std::optional<Folder> folder_;
  std::optional<Namespaces> namespaces_;
  std::optional<GuestTap> guest_;
  std::optional<Outside> outside_;
  std::string links_;
  std::string before_;
};

TEST_F(TapSwapTest, EverythingTheGuestSendsGoesThroughTheEngine) {
  expect_both_ways(1);
  std::vector<Fd> engine = swap().interpose("tap0");
  ASSERT_EQ(engine.size(), 1u);
  EXPECT_THAT(output_of("ip -d -o link show tap0"),
              ::testing::AllOf(HasSubstr("veth"), HasSubstr("master br0"), HasSubstr("mtu 1450"), HasSubstr("fe:54:00:00:00:01"),
                               HasSubstr("guard on"), HasSubstr("cost 77"), HasSubstr("qlen 777")));
  // The tap is the guest's own still, elsewhere.
  const auto facts = tap_behind(guest_->fd());
  ASSERT_TRUE(facts);
  EXPECT_EQ(facts->name, "tap0");
  EXPECT_TRUE(same_namespace(facts->net.get(), namespaces_->find("tap0")->net.get()));
  EXPECT_FALSE(same_namespace(facts->net.get(), own_namespace().get()));

  // Nobody reads: it goes nowhere, while what comes in arrives.
  EXPECT_TRUE(guest_->send(10));
  EXPECT_TRUE(outside_->send(11));
  EXPECT_EQ(guest_->receive(), 11u);
  EXPECT_FALSE(outside_->receive(0));
  {
    PacketPath path(std::move(engine[0]));
    path.start();
    EXPECT_EQ(outside_->receive(), 10u);  // it waited in eq0
    expect_both_ways(20);
    EXPECT_EQ(path.mark().value, 2u);
  }
  swap().undo("tap0");
  expect_plain();
  swap().undo("tap0");  // again: nothing
  expect_plain();
}

TEST_F(TapSwapTest, NothingGoesOnBeforeTheWayOutIsOpen) {
  const Fd host = Fd::own(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  for (int i = 0; i < 20; ++i) {
    std::optional<Namespaces::Inside> inside;
    std::optional<bool> open;  // when the next thing is changed after both ends are up
    swap([&] {
      if (!inside) inside = namespaces_->find("tap0");
      if (open || (flags_of(host.get(), "mhv0") & IFF_UP) == 0) return;
      open = (flags_of(inside->netlink.get(), "up0") & flags_of(host.get(), "mhv0") & IFF_RUNNING) != 0;
    }).interpose("tap0");
    ASSERT_TRUE(open);
    ASSERT_TRUE(*open);
    swap().undo("tap0");
  }
  expect_plain();
}

class Holds : public PacketFilter {
 public:
  std::optional<Decision> ask(PacketNo, std::span<const std::byte>) override { return Decision{Verdict::kHold}; }
};

TEST_F(TapSwapTest, HeldFramesComeOutInOrderAtTheRelease) {
  PacketPath path(std::move(swap().interpose("tap0")[0]));
  path.start();
  Holds holds;
  const FilterId id = path.attach(holds, {}, 0);
  for (std::uint32_t i = 0; i < 500; ++i) ASSERT_TRUE(guest_->send(i));
  // All that the guest's process wrote is in the epoch: the boundary that output commit rests on.
  const PacketNo epoch = path.mark();
  EXPECT_EQ(epoch.value, 500u);
  for (std::uint32_t i = 500; i < 600; ++i) ASSERT_TRUE(guest_->send(i));
  EXPECT_FALSE(outside_->receive(0));
  path.release(id, epoch);
  for (std::uint32_t i = 0; i < 500; ++i) ASSERT_EQ(outside_->receive(), i);
  EXPECT_FALSE(outside_->receive(0));
  path.release(id, path.mark());
  for (std::uint32_t i = 500; i < 600; ++i) ASSERT_EQ(outside_->receive(), i);
}

// The engine as a process of its own. Ends with the test.
class EngineProcess {
 public:
  EngineProcess(Fd eq0) {
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      PacketPath path(std::move(eq0));
      path.start();
      for (;;) ::pause();
    }
  }
  EngineProcess(const EngineProcess&) = delete;
  EngineProcess& operator=(const EngineProcess&) = delete;
  ~EngineProcess() { kill(); }
  void kill() {
    if (pid_ > 0) ::kill(pid_, SIGKILL), ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  void stall() {
    ::kill(pid_, SIGSTOP);
    ::waitpid(pid_, nullptr, WUNTRACED);
  }
  void go_on() { ::kill(pid_, SIGCONT); }

 private:
  pid_t pid_ = -1;
};

TEST_F(TapSwapTest, ADeadEngineLeaksNothingAndTheNextOneGoesOn) {
  std::optional<EngineProcess> engine(std::in_place, std::move(swap().interpose("tap0")[0]));
  expect_both_ways(1);
  engine->kill();
  for (std::uint32_t i = 100; i < 1100; ++i) {
    ASSERT_TRUE(guest_->send(i));  // not held up
    ASSERT_TRUE(outside_->send(i));
    ASSERT_EQ(guest_->receive(), i);  // inbound is the kernel's
  }
  EXPECT_FALSE(outside_->receive(0));
  engine.emplace(std::move(swap().interpose("tap0")[0]));
  for (std::uint32_t i = 2000; i < 3000; ++i) expect_both_ways(i);
}

TEST_F(TapSwapTest, AStalledEngineLeaksNothingAndHoldsNothingUp) {
  EngineProcess engine(std::move(swap().interpose("tap0")[0]));
  expect_both_ways(1);
  engine.stall();
  for (std::uint32_t i = 0; i < 30'000; ++i) ASSERT_TRUE(guest_->send(i));  // three times what eq0 queues
  ASSERT_TRUE(outside_->send(7));
  EXPECT_EQ(guest_->receive(), 7u);
  EXPECT_FALSE(outside_->receive(0));
  // Its taps are not given to a second one while it lives.
  EXPECT_EQ(error_of([&] { swap().interpose("tap0"); }).code(), Code::kBusy);
  const std::string counters = output_of("nsenter --net=" + folder_->path() + "/netns/tap0 ip -s -j link show eq0");
  const std::size_t at = counters.find("dropped", counters.find("\"tx\"")) + 9;
  const auto kept = static_cast<std::uint32_t>(30'000 - std::stoul(counters.substr(at)));
  EXPECT_NEAR(kept, 10'000, 2);  // the first ones; the rest was dropped and counted
  engine.go_on();
  for (std::uint32_t i = 0; i < kept; ++i) ASSERT_EQ(outside_->receive(), i);
  expect_both_ways(50'000);
  engine.kill();
  swap().undo("tap0");
  expect_plain();
}

TEST_F(TapSwapTest, InboundCanBeClaimedAndGivenBack) {
  {
    std::vector<Fd> engine = swap().interpose("tap0", /*inbound=*/true);
    ASSERT_EQ(engine.size(), 2u);
    EXPECT_TRUE(outside_->send(5));
    EXPECT_FALSE(guest_->receive(0));
    PacketPath inbound(std::move(engine[1]));
    inbound.start();
    EXPECT_EQ(guest_->receive(), 5u);
    PacketPath outbound(std::move(engine[0]));
    outbound.start();
    expect_both_ways(10);
    EXPECT_EQ(inbound.mark().value, 2u);
    EXPECT_EQ(outbound.mark().value, 1u);
  }
  const std::vector<Fd> engine = swap().interpose("tap0");
  EXPECT_TRUE(outside_->send(6));
  EXPECT_EQ(guest_->receive(), 6u);
}

TEST_F(TapSwapTest, WhatCannotBeSwappedIsRefusedAndLeftAlone) {
  EXPECT_EQ(error_of([&] { swap().interpose("../tap0"); }).code(), Code::kInvalid);
  EXPECT_EQ(error_of([&] { swap().interpose("eq0"); }).code(), Code::kInvalid);
  EXPECT_EQ(error_of([&] { swap().interpose("far0"); }).code(), Code::kUnsupported);
  EXPECT_EQ(error_of([&] { swap().interpose("none"); }).code(), Code::kGone);
  if (std::system("ip link set br0 type bridge vlan_filtering 1 2>/dev/null") == 0) {  // not every kernel has them
    EXPECT_EQ(error_of([&] { swap().interpose("tap0"); }).code(), Code::kUnsupported);
    sh("ip link set br0 type bridge vlan_filtering 0");
  }
  sh("ip link set tap0 nomaster");
  EXPECT_EQ(error_of([&] { swap().interpose("tap0"); }).code(), Code::kUnsupported);
  sh("ip link set tap0 master br0 && ip link set tap0 type bridge_slave guard on cost 77");
  expect_plain();
}

TEST_F(TapSwapTest, AnEndedGuestIsClearedAway) {
  EngineProcess engine(std::move(swap().interpose("tap0")[0]));
  guest_.reset();
  EXPECT_EQ(error_of([&] { engine.kill(), swap().interpose("tap0"); }).code(), Code::kGone);
  swap().undo("tap0");
  EXPECT_FALSE(namespaces_->find("tap0"));
  EXPECT_EQ(output_of("ip -o link | grep -c 'tap0\\|mhv'"), "0\n");
}

TEST_F(TapSwapTest, UndoneUnderALivingEngineItEnds) {
  PacketPath path(std::move(swap().interpose("tap0")[0]));
  path.start();
  swap().undo("tap0");
  expect_plain();
  while (!path.counters().ended) std::this_thread::yield();
}

TEST_F(TapSwapTest, KilledAtAnyStepASwapIsFinishedOrUndone) {
  int steps = 0;
  for (bool done = false; !done; ++steps) {
    SCOPED_TRACE("before change " + std::to_string(steps));
    const auto interpose = [&](std::function<void()> at) { swap(std::move(at)).interpose("tap0"); };
    done = killed_at(steps, interpose);
    swap().undo("tap0");
    expect_plain();

    killed_at(steps, interpose);
    {
      PacketPath path(std::move(swap().interpose("tap0")[0]));
      path.start();
      expect_both_ways(100);
      EXPECT_EQ(path.mark().value, 1u);
    }
    swap().undo("tap0");
    expect_plain();
    if (HasFailure()) return;
  }
  EXPECT_GT(steps, 15);
}

TEST_F(TapSwapTest, KilledAtAnyStepAnUndoIsFinishedOrTakenBack) {
  int steps = 0;
  for (bool done = false; !done; ++steps) {
    SCOPED_TRACE("before change " + std::to_string(steps));
    const auto undo = [&](std::function<void()> at) { swap(std::move(at)).undo("tap0"); };
    swap().interpose("tap0");
    done = killed_at(steps, undo);
    swap().undo("tap0");
    expect_plain();

    swap().interpose("tap0");
    killed_at(steps, undo);
    {
      PacketPath path(std::move(swap().interpose("tap0")[0]));
      path.start();
      expect_both_ways(100);
      EXPECT_EQ(path.mark().value, 1u);
    }
    swap().undo("tap0");
    expect_plain();
    if (HasFailure()) return;
  }
  EXPECT_GT(steps, 8);
}

// Both directions run while the tap is swapped and put back: what is lost is what the kernel's own moves lose, in a gap each.
TEST_F(TapSwapTest, WhatIsLostInASwapIsLostInOneGap) {
  std::atomic<bool> stop{false};
  std::uint32_t last = 0;
  std::thread sender([&] {
    for (std::uint32_t i = 1; !stop; last = i++) {
      while (!guest_->send(i) && !stop) last = i++;
    }
    for (std::uint32_t i = last + 1; i < last + 100; ++i) guest_->send(i);
  });
  std::vector<Fd> engine = swap().interpose("tap0");
  PacketPath path(std::move(engine[0]));
  path.start();
  while (path.counters().out < 1000) std::this_thread::yield();
  stop = true;
  sender.join();
  path.mark();
  std::uint32_t expected = 1;
  std::uint32_t lost = 0;
  int gaps = 0;
  while (const auto number = outside_->receive(0)) {
    if (*number != expected) ++gaps, lost += *number - expected;
    EXPECT_GE(*number, expected);
    expected = *number + 1;
  }
  EXPECT_LE(gaps, 1);
  EXPECT_GE(expected, last);
  EXPECT_EQ(path.counters().overflow, 0u);
  RecordProperty("lost", std::to_string(lost));
  RecordProperty("sent", std::to_string(last));
}

}  // namespace
}  // namespace mhv::net::testing
