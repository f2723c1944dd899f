#include "base/frame.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <functional>
#include <thread>

#include "base/code_of_test.h"

namespace mhv {
namespace {

std::string header(std::uint32_t magic, std::uint16_t version, std::uint16_t fds, std::uint32_t bytes) {
  std::string text(kFrameHeaderBytes, '\0');
  std::memcpy(text.data(), &magic, 4);
  std::memcpy(text.data() + 4, &version, 2);
  std::memcpy(text.data() + 6, &fds, 2);
  std::memcpy(text.data() + 8, &bytes, 4);
  return text;
}

struct Pair {
  Pair() {
    std::array<int, 2> ends{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    a = Fd::own(ends[0]);
    b = Fd::own(ends[1]);
  }
  void raw(const std::string& bytes) { write_all(a.get(), std::as_bytes(std::span(bytes)), "raw bytes"); }
  Fd a, b;
};

ino_t inode(int fd) {
  struct stat info {};
  EXPECT_EQ(::fstat(fd, &info), 0);
  return info.st_ino;
}

int open_descriptors() {
  int count = 0;
  for (int fd = 0; fd < 1024; ++fd) count += ::fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
  return count;
}

TEST(FrameHeader, IsTakenApart) {
  const std::string text = header(kFrameMagic, kFrameVersion, 3, 77);
  const FrameHeader parsed = parse_frame_header(std::as_bytes(std::span(text)));
  EXPECT_EQ(parsed.fds, 3);
  EXPECT_EQ(parsed.payload_bytes, 77u);
  EXPECT_EQ(text.substr(0, 4), "MHV1");
}

TEST(FrameHeader, LimitsAreInclusive) {
  const std::string text = header(kFrameMagic, kFrameVersion, kFrameFdsMax, kFramePayloadMax);
  EXPECT_EQ(parse_frame_header(std::as_bytes(std::span(text))).payload_bytes, kFramePayloadMax);
}

TEST(FrameHeader, EachDefectHasItsError) {
  const auto parse = [](const std::string& text) { return code_of([&] { parse_frame_header(std::as_bytes(std::span(text))); }); };
  EXPECT_EQ(parse(""), Code::kInvalid);
  EXPECT_EQ(parse(header(kFrameMagic, kFrameVersion, 0, 0).substr(1)), Code::kInvalid);
  EXPECT_EQ(parse(header(kFrameMagic + 1, kFrameVersion, 0, 0)), Code::kInvalid);
  EXPECT_EQ(parse(header(kFrameMagic, kFrameVersion + 1, 0, 0)), Code::kVersion);
  EXPECT_EQ(parse(header(kFrameMagic, kFrameVersion, kFrameFdsMax + 1, 0)), Code::kInvalid);
  EXPECT_EQ(parse(header(kFrameMagic, kFrameVersion, 0, kFramePayloadMax + 1)), Code::kInvalid);
  EXPECT_EQ(parse(header(kFrameMagic, kFrameVersion, 0xffff, 0xffffffff)), Code::kInvalid);
}

TEST(Frame, TravelsWithItsDescriptors) {
  Pair pair;
  const Fd one = Fd::memory("one");
  const Fd two = Fd::memory("two");
  send_frame(pair.a.get(), "payload", std::array{one.get(), two.get()});
  send_frame(pair.a.get(), "");
  const std::optional<Frame> first = receive_frame(pair.b.get());
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->payload, "payload");
  ASSERT_EQ(first->fds.size(), 2u);
  EXPECT_EQ(inode(first->fds[0].get()), inode(one.get()));
  EXPECT_EQ(inode(first->fds[1].get()), inode(two.get()));
  EXPECT_NE(::fcntl(first->fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
  const std::optional<Frame> second = receive_frame(pair.b.get());
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->payload, "");
  EXPECT_TRUE(second->fds.empty());
  pair.a.close();
  EXPECT_FALSE(receive_frame(pair.b.get()).has_value());
}

TEST(Frame, TheLargestOneTravels) {
  Pair pair;
  std::vector<int> fds(kFrameFdsMax, pair.a.get());
  const std::string payload(kFramePayloadMax, 'x');
  std::thread sender([&] { send_frame(pair.a.get(), payload, fds); });
  const std::optional<Frame> frame = receive_frame(pair.b.get());
  sender.join();
  ASSERT_TRUE(frame.has_value());
  EXPECT_EQ(frame->payload, payload);
  EXPECT_EQ(frame->fds.size(), kFrameFdsMax);
}

TEST(Frame, TheSenderKeepsTheLimits) {
  Pair pair;
  EXPECT_EQ(code_of([&] { send_frame(pair.a.get(), std::string(kFramePayloadMax + 1, 'x')); }), Code::kInvalid);
  const std::vector<int> fds(kFrameFdsMax + 1, pair.a.get());
  EXPECT_EQ(code_of([&] { send_frame(pair.a.get(), "", fds); }), Code::kInvalid);
}

TEST(Frame, AClosedPeerIsUnavailableAndNoSignal) {
  Pair pair;
  pair.b.close();
  EXPECT_EQ(code_of([&] { send_frame(pair.a.get(), "x"); }), Code::kUnavailable);
}

TEST(Frame, CutAnywhereItIsAnError) {
  const std::string whole = header(kFrameMagic, kFrameVersion, 0, 4) + "data";
  for (std::size_t length = 1; length < whole.size(); ++length) {
    Pair pair;
    pair.raw(whole.substr(0, length));
    pair.a.close();
    EXPECT_EQ(code_of([&] { receive_frame(pair.b.get()); }), Code::kUnavailable) << length;
  }
}

TEST(Frame, ByteByByteItArrivesWhole) {
  Pair pair;
  const std::string whole = header(kFrameMagic, kFrameVersion, 0, 4) + "data";
  std::thread sender([&] {
    for (const char c : whole) pair.raw(std::string(1, c));
  });
  const std::optional<Frame> frame = receive_frame(pair.b.get());
  sender.join();
  ASSERT_TRUE(frame.has_value());
  EXPECT_EQ(frame->payload, "data");
}

void send_raw_with_fds(int socket, std::string bytes, std::span<const int> fds) {
  iovec part{bytes.data(), bytes.size()};
  std::vector<std::byte> control(CMSG_SPACE(fds.size_bytes()));
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* c = CMSG_FIRSTHDR(&message);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(fds.size_bytes());
  std::memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
  ASSERT_EQ(::sendmsg(socket, &message, MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
}

TEST(Frame, WrongDescriptorCountsAreErrorsAndLeakNothing) {
  const Fd file = Fd::memory("file");
  const int before = open_descriptors();
  {
    Pair pair;
    pair.raw(header(kFrameMagic, kFrameVersion, 1, 0));
    EXPECT_EQ(code_of([&] { receive_frame(pair.b.get()); }), Code::kInvalid);
  }
  {
    Pair pair;
    send_raw_with_fds(pair.a.get(), header(kFrameMagic, kFrameVersion, 1, 0), std::array{file.get(), file.get()});
    EXPECT_EQ(code_of([&] { receive_frame(pair.b.get()); }), Code::kInvalid);
  }
  {
    Pair pair;  // more than a message may carry: cut off by the kernel
    send_raw_with_fds(pair.a.get(), header(kFrameMagic, kFrameVersion, kFrameFdsMax, 0), std::vector<int>(kFrameFdsMax + 4, file.get()));
    EXPECT_EQ(code_of([&] { receive_frame(pair.b.get()); }), Code::kInvalid);
  }
  EXPECT_EQ(open_descriptors(), before);
}

// Descriptors in every part of a message: what is collected may not grow without limit.
TEST(Frame, DescriptorsBesideEveryByteAreAnError) {
  const Fd file = Fd::memory("file");
  const int before = open_descriptors();
  {
    Pair pair;
    const std::vector<int> many(kFrameFdsMax, file.get());
    std::thread sender([&] {
      send_raw_with_fds(pair.a.get(), header(kFrameMagic, kFrameVersion, kFrameFdsMax, 8), many);
      for (int i = 0; i < 8; ++i) send_raw_with_fds(pair.a.get(), "x", many);
    });
    sender.join();
    EXPECT_EQ(code_of([&] { receive_frame(pair.b.get()); }), Code::kInvalid);
  }
  EXPECT_EQ(open_descriptors(), before);
}

}  // namespace
}  // namespace mhv
