// The packet path against a socket pair of datagrams, which keeps packets apart as a tap does. No root, no network.
#include "net/packet_path.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <functional>
#include <semaphore>
#include <string>
#include <thread>

#include "base/error.h"

namespace mhv::net {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const std::string kHeader(kPacketHeader, '\0');

std::vector<std::byte> packet_of(const std::string& text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

class Filter : public PacketFilter {
 public:
  using Ask = std::function<std::optional<Decision>(PacketNo, const std::string&)>;
  explicit Filter(Ask ask) : ask_(std::move(ask)) {}
  std::optional<Decision> ask(PacketNo number, std::span<const std::byte> packet) override {
    const std::string text(reinterpret_cast<const char*>(packet.data()), packet.size());
    seen += text.substr(kPacketHeader);
    return ask_(number, text.substr(kPacketHeader));
  }
  std::string seen;  // one letter a packet; read it when the path stands still

 private:
  Ask ask_;
};

Filter always(Verdict verdict) {
  return Filter([verdict](PacketNo, const std::string&) { return Decision{verdict}; });
}
Filter silent() {
  return Filter([](PacketNo, const std::string&) { return std::nullopt; });
}

constexpr FilterOptions kPatient{std::chrono::hours(1), WhenLate::kFailClosed};

class PacketPathTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), 0);
    guest_ = Fd::own(ends[0]);
    tap_ = Fd::own(ends[1]);
    ASSERT_EQ(::fcntl(tap_.get(), F_SETFL, O_NONBLOCK), 0);
    const timeval patience{30, 0};
    ASSERT_EQ(::setsockopt(guest_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
  }
  PacketPath& start(PathLimits limits = {}) {
    path_.emplace(std::move(tap_), limits).start();
    return *path_;
  }
  void send(const std::string& letters) {
    for (const char letter : letters) {
      const std::string packet = kHeader + letter;
      ASSERT_EQ(::send(guest_.get(), packet.data(), packet.size(), 0), static_cast<ssize_t>(packet.size()));
    }
  }
  // Waits for as many packets as there are letters.
  std::string receive(std::size_t packets) {
    std::string letters;
    while (packets-- > 0) {
      std::array<char, 100> bytes;
      const ssize_t n = ::recv(guest_.get(), bytes.data(), bytes.size(), 0);
      if (n <= 0) return letters + "!";
      letters += std::string(bytes.data(), static_cast<std::size_t>(n)).substr(kPacketHeader);
    }
    return letters;
  }
  bool nothing_comes() {
    char c = 0;
    return ::recv(guest_.get(), &c, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
  }

  Fd guest_;
  Fd tap_;
  std::optional<PacketPath> path_;
};

TEST_F(PacketPathTest, PassesAtOnceWithoutFilters) {
  PacketPath& path = start();
  send("abc");
  EXPECT_EQ(receive(3), "abc");
  EXPECT_EQ(path.mark().value, 3u);
  const PathCounters counters = path.counters();
  EXPECT_EQ(counters.in, 3u);
  EXPECT_EQ(counters.out, 3u);
  EXPECT_EQ(counters.out_bytes, 3 * (kPacketHeader + 1));
  EXPECT_EQ(counters.queued, 0u);
}

TEST_F(PacketPathTest, FiltersAreAskedInTheirOrder) {
  PacketPath& path = start();
  Filter second([](PacketNo, const std::string& text) { return Decision{Verdict::kReplace, packet_of(kHeader + text + "2")}; });
  Filter first([](PacketNo, const std::string& text) {
    if (text == "b") return Decision{Verdict::kDrop};
    return Decision{Verdict::kReplace, packet_of(kHeader + text + "1")};
  });
  const FilterId last = path.attach(second, kPatient, 0);
  path.attach(first, kPatient, 0);
  send("abc");
  EXPECT_EQ(receive(2), "a12c12");
  path.mark();
  EXPECT_EQ(second.seen, "a1c1");
  EXPECT_EQ(path.counters().dropped, 1u);
  EXPECT_EQ(path.counters(last).asked, 2u);
}

TEST_F(PacketPathTest, HeldPacketsLeaveInOrderWhenTheirMarkIsReleased) {
  PacketPath& path = start();
  Filter holds = always(Verdict::kHold);
  const FilterId id = path.attach(holds, kPatient, 0);
  send("abc");
  const PacketNo first = path.mark();
  EXPECT_EQ(first.value, 3u);
  send("de");
  const PacketNo second = path.mark();
  EXPECT_TRUE(nothing_comes());
  EXPECT_EQ(path.counters().queued, 5u);
  path.release(id, first);
  EXPECT_EQ(receive(3), "abc");
  EXPECT_TRUE(nothing_comes());
  path.release(id, first);  // nothing more
  EXPECT_TRUE(nothing_comes());
  path.release(id, second);
  EXPECT_EQ(receive(2), "de");
}

TEST_F(PacketPathTest, APacketHeldByTwoNeedsBoth) {
  PacketPath& path = start();
  Filter one = always(Verdict::kHold);
  Filter two = always(Verdict::kHold);
  const FilterId a = path.attach(one, kPatient, 0);
  const FilterId b = path.attach(two, kPatient, 1);
  send("xy");
  const PacketNo all = path.mark();
  path.release(b, all);
  EXPECT_TRUE(nothing_comes());
  path.release(a, {1});
  EXPECT_EQ(receive(1), "x");
  EXPECT_TRUE(nothing_comes());
  path.release(a, all);
  EXPECT_EQ(receive(1), "y");
}

TEST_F(PacketPathTest, OneOfThoseThatAreHeldIsDecided) {
  PacketPath& path = start();
  Filter holds = always(Verdict::kHold);
  Filter asks = silent();
  const FilterId first = path.attach(asks, kPatient, 0);
  const FilterId holder = path.attach(holds, kPatient, 1);
  send("abcde");
  path.mark();
  EXPECT_FALSE(path.answer(holder, {1}, {}));  // it was not asked yet
  for (const std::uint64_t number : {1, 2, 3, 4}) EXPECT_TRUE(path.answer(first, {number}, {}));
  EXPECT_TRUE(path.answer(holder, {2}, {}));
  EXPECT_TRUE(nothing_comes());  // behind the first
  EXPECT_TRUE(path.answer(holder, {3}, {Verdict::kDrop}));
  EXPECT_FALSE(path.answer(holder, {3}, {}));
  EXPECT_FALSE(path.answer(holder, {4}, {Verdict::kReplace, packet_of(kHeader + "x")}));
  EXPECT_TRUE(path.answer(holder, {1}, {}));
  EXPECT_EQ(receive(2), "ab");
  EXPECT_TRUE(path.answer(first, {5}, {Verdict::kDrop}));
  EXPECT_TRUE(nothing_comes());
  EXPECT_TRUE(path.answer(holder, {4}, {}));
  EXPECT_EQ(receive(1), "d");
  EXPECT_EQ(path.counters().queued, 0u);
  EXPECT_EQ(path.counters().queued_bytes, 0u);
}

TEST_F(PacketPathTest, WhatIsAboutToBeHeldIsDecided) {
  PacketPath& path = start();
  Filter asks = silent();
  const FilterId id = path.attach(asks, kPatient, 0);
  send("ab");
  path.mark();
  EXPECT_TRUE(path.answer(id, {2}, {Verdict::kHold}));
  EXPECT_TRUE(path.answer(id, {2}, {}));
  EXPECT_FALSE(path.answer(id, {2}, {Verdict::kDrop}));
  EXPECT_TRUE(path.answer(id, {1}, {}));
  EXPECT_EQ(receive(2), "ab");
}

TEST_F(PacketPathTest, NothingIsReadBeforeItStarts) {
  send("ab");
  PacketPath& path = path_.emplace(std::move(tap_));
  Filter drops = always(Verdict::kDrop);
  const FilterId id = path.attach(drops, kPatient, 0);
  path.start();
  while (path.counters(id).dropped < 2) std::this_thread::yield();
  EXPECT_TRUE(nothing_comes());
}

TEST_F(PacketPathTest, LateAnswersKeepTheOrder) {
  PacketPath& path = start();
  Filter asks = silent();
  Filter after = always(Verdict::kPass);
  const FilterId id = path.attach(asks, kPatient, 0);
  path.attach(after, kPatient, 1);
  send("abcd");
  path.mark();
  EXPECT_TRUE(path.answer(id, {3}, {}));
  EXPECT_TRUE(path.answer(id, {2}, {Verdict::kDrop}));
  EXPECT_FALSE(path.answer(id, {2}, {}));   // answered
  EXPECT_FALSE(path.answer(id, {99}, {}));  // never came
  EXPECT_FALSE(path.answer({77}, {1}, {}));
  EXPECT_TRUE(nothing_comes());
  EXPECT_EQ(after.seen, "");
  EXPECT_TRUE(path.answer(id, {1}, {Verdict::kReplace, packet_of(kHeader + "A")}));
  EXPECT_EQ(receive(2), "Ac");
  EXPECT_EQ(after.seen, "Ac");
  EXPECT_TRUE(path.answer(id, {4}, {}));
  EXPECT_EQ(receive(1), "d");
}

TEST_F(PacketPathTest, ALateFilterIsDecidedForByItsPolicy) {
  PacketPath& path = start();
  Filter open = silent();
  const FilterId id = path.attach(open, {std::chrono::milliseconds(2), WhenLate::kFailOpen}, 0);
  send("ab");
  EXPECT_EQ(receive(2), "ab");  // nobody answers
  EXPECT_EQ(path.counters(id).late, 2u);
  EXPECT_FALSE(path.answer(id, {1}, {}));
  path.detach(id, WhenLate::kFailOpen);

  Filter closed = silent();
  Filter sees = always(Verdict::kPass);
  const FilterId strict = path.attach(closed, {std::chrono::milliseconds(2), WhenLate::kFailClosed}, 0);
  path.attach(sees, kPatient, 1);
  send("cd");
  while (path.counters(strict).late < 2) std::this_thread::yield();
  EXPECT_TRUE(nothing_comes());
  EXPECT_EQ(sees.seen, "");
  EXPECT_EQ(path.counters().dropped, 2u);
  EXPECT_EQ(path.counters().queued, 0u);
}

TEST_F(PacketPathTest, DetachDecidesForWhatTheFilterStillHas) {
  PacketPath& path = start();
  Filter holds = always(Verdict::kHold);
  Filter asks = silent();
  const FilterId holder = path.attach(holds, kPatient, 0);
  const FilterId asker = path.attach(asks, kPatient, 1);
  send("ab");
  path.mark();
  path.answer(asker, {1}, {});
  path.detach(asker, WhenLate::kFailOpen);
  EXPECT_TRUE(nothing_comes());
  send("c");
  path.mark();
  EXPECT_EQ(asks.seen, "ab");
  path.detach(holder, WhenLate::kFailOpen);
  EXPECT_EQ(receive(3), "abc");

  const FilterId again = path.attach(holds, kPatient, 0);
  send("de");
  path.mark();
  path.detach(again, WhenLate::kFailClosed);
  send("f");
  EXPECT_EQ(receive(1), "f");
  EXPECT_EQ(path.counters().dropped, 2u);
}

TEST_F(PacketPathTest, AFilterThatComesInBetweenIsNotAskedAboutWhatIsPast) {
  PacketPath& path = start();
  Filter asks = silent();
  const FilterId asker = path.attach(asks, kPatient, 0);
  send("ab");
  path.mark();
  Filter early = always(Verdict::kPass);
  Filter late = always(Verdict::kPass);
  path.attach(early, kPatient, 0);
  path.attach(late, kPatient, 2);
  EXPECT_TRUE(path.answer(asker, {1}, {}));
  EXPECT_TRUE(path.answer(asker, {2}, {}));
  EXPECT_EQ(receive(2), "ab");
  EXPECT_EQ(early.seen, "");
  EXPECT_EQ(late.seen, "ab");
}

TEST_F(PacketPathTest, AFullQueueDropsWhatComesAndStaysInOrder) {
  PacketPath& path = start({.packets = 3, .bytes = 1 << 20});
  Filter holds = always(Verdict::kHold);
  const FilterId id = path.attach(holds, kPatient, 0);
  send("abcde");
  const PacketNo all = path.mark();
  EXPECT_EQ(all.value, 3u);
  EXPECT_EQ(path.counters().overflow, 2u);
  path.release(id, all);
  EXPECT_EQ(receive(3), "abc");
  send("f");
  path.release(id, path.mark());
  EXPECT_EQ(receive(1), "f");
}

TEST_F(PacketPathTest, BytesAreBoundedToo) {
  PacketPath& path = start({.packets = 100, .bytes = 2 * (kPacketHeader + 1)});
  Filter holds = always(Verdict::kHold);
  path.attach(holds, kPatient, 0);
  send("abc");
  path.mark();
  EXPECT_EQ(path.counters().queued, 2u);
  EXPECT_EQ(path.counters().queued_bytes, 2 * (kPacketHeader + 1));
  EXPECT_EQ(path.counters().overflow, 1u);
}

TEST_F(PacketPathTest, AReplacementThatIsNoPacketIsADrop) {
  PacketPath& path = start();
  Filter forges([](PacketNo, const std::string& text) {
    return Decision{Verdict::kReplace, text == "a" ? packet_of("short") : std::vector<std::byte>(kPacketMax + 1)};
  });
  path.attach(forges, kPatient, 0);
  send("ab");
  path.mark();
  EXPECT_TRUE(nothing_comes());
  EXPECT_EQ(path.counters().dropped, 2u);
}

TEST_F(PacketPathTest, TheEndOfTheTapIsSeen) {
  PacketPath& path = start();
  guest_.close();
  while (!path.counters().ended) std::this_thread::yield();
}

TEST_F(PacketPathTest, FiltersHaveALimit) {
  PacketPath& path = start();
  Filter pass = always(Verdict::kPass);
  std::vector<FilterId> ids;
  for (std::size_t i = 0; i < kFiltersMax; ++i) ids.push_back(path.attach(pass, kPatient, 0));
  EXPECT_THROW(path.attach(pass, kPatient, 0), Error);
  path.detach(ids[5], WhenLate::kFailOpen);
  path.attach(pass, kPatient, 99);
  send("a");
  EXPECT_EQ(receive(1), "a");
  EXPECT_EQ(path.counters(ids[6]).passed, 1u);
}

// Two threads answer in an order of their own while a third marks and releases: what comes out is what was sent, in its order.
TEST_F(PacketPathTest, ManyThreadsAndOneOrder) {
  PacketPath& path = start({.packets = 1 << 16, .bytes = 64u << 20});
  std::mutex mutex;
  std::vector<std::uint64_t> open;
  bool stop = false;
  Filter asks([&](PacketNo number, const std::string&) -> std::optional<Decision> {
    if (number.value % 3 == 0) return Decision{};
    const std::lock_guard lock(mutex);
    open.push_back(number.value);
    return std::nullopt;
  });
  Filter holds = always(Verdict::kHold);
  const FilterId asker = path.attach(asks, kPatient, 0);
  const FilterId holder = path.attach(holds, kPatient, 1);
  const auto answer = [&](bool newest) {
    for (;;) {
      std::uint64_t number = 0;
      {
        const std::lock_guard lock(mutex);
        if (open.empty() && stop) return;
        if (!open.empty()) {
          number = newest ? open.back() : open.front();
          open.erase(newest ? open.end() - 1 : open.begin());
        }
      }
      if (number != 0) path.answer(asker, {number}, {number % 5 == 0 ? Verdict::kDrop : Verdict::kPass});
    }
  };
  constexpr std::uint64_t kPackets = 20'000;
  std::thread one(answer, true);
  std::thread two(answer, false);
  std::thread release([&] {
    for (PacketNo last; last.value < kPackets; path.release(holder, last)) last = path.mark();
  });
  std::counting_semaphore<> room{64};  // what a socket queues
  std::thread sender([&] {
    for (std::uint64_t i = 1; i <= kPackets; ++i) {
      room.acquire();
      const std::string packet = kHeader + std::to_string(i);
      if (::send(guest_.get(), packet.data(), packet.size(), 0) < 0) return;
    }
  });
  std::uint64_t wrong = 0;
  for (std::uint64_t i = 1; i <= kPackets; ++i) {
    if ((i % 3 == 0 || i % 5 != 0) && receive(1) != std::to_string(i)) ++wrong;
    room.release();
  }
  sender.join();
  release.join();
  {
    const std::lock_guard lock(mutex);
    stop = true;
  }
  one.join();
  two.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_EQ(path.counters().refused, 0u);
}

}  // namespace
}  // namespace mhv::net
