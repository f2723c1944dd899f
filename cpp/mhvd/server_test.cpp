#include "mhvd/server.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/frame.h"
#include "base/temp_folder_test.h"

namespace mhv::mhvd {
namespace {

class ServerTest : public ::testing::Test {
 protected:
  ServerTest() {
    server_ = std::make_unique<Server>(folder_.file("s"),
                                       [](const protocol::Request& request, std::span<const int> fds, const ReplyFn& progress) {
                                         if (request.has_detach()) throw Error(Code::kNotFound, "no guest", "look");
                                         if (request.has_forget()) throw std::runtime_error("odd");
                                         protocol::Reply reply;
                                         reply.mutable_progress()->set_stage("working");
                                         progress(reply);
                                         reply.Clear();
                                         reply.mutable_export_done()->set_bytes(fds.size());
                                         return reply;
                                       });
  }
  ~ServerTest() override { server_.reset(); }

  Fd connect() {
    Fd fd = Fd::own(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, (folder_.file("s")).c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    return fd;
  }

  static std::optional<protocol::Reply> next(const Fd& fd) {
    const auto frame = receive_frame(fd.get());
    if (!frame) return std::nullopt;
    protocol::Reply reply;
    EXPECT_TRUE(reply.ParseFromString(frame->payload));
    return reply;
  }

  static void send(const Fd& fd, const protocol::Request& request) { send_frame(fd.get(), request.SerializeAsString()); }

  TempFolder folder_;
  std::unique_ptr<Server> server_;
};

protocol::Request verify_request(std::uint64_t id) {
  protocol::Request request;
  request.set_id(id);
  request.mutable_checkpoint_verify()->set_guest("s1");
  return request;
}

TEST_F(ServerTest, AnswersWithProgressThenTheReply) {
  const Fd fd = connect();
  for (std::uint64_t id : {7, 8}) {
    send(fd, verify_request(id));
    const auto progress = next(fd);
    EXPECT_EQ(progress->progress().stage(), "working");
    EXPECT_EQ(progress->id(), id);
    const auto reply = next(fd);
    EXPECT_TRUE(reply->has_export_done());
    EXPECT_EQ(reply->id(), id);
  }
}

TEST_F(ServerTest, ErrorsKeepTheConnection) {
  const Fd fd = connect();
  protocol::Request request;
  request.set_id(1);
  request.mutable_detach()->set_guest("s1");
  send(fd, request);
  EXPECT_EQ(next(fd)->error().code(), static_cast<std::uint32_t>(Code::kNotFound));
  request.mutable_forget()->set_guest("s1");
  send(fd, request);
  EXPECT_EQ(next(fd)->error().code(), static_cast<std::uint32_t>(Code::kInternal));
  request.mutable_forget()->set_guest(std::string(300, 'x'));
  send(fd, request);
  EXPECT_EQ(next(fd)->error().code(), static_cast<std::uint32_t>(Code::kInvalid));
  send(fd, verify_request(2));
  EXPECT_TRUE(next(fd)->has_progress());
}

TEST_F(ServerTest, RubbishEndsOnlyItsConnection) {
  const Fd fd = connect();
  ASSERT_EQ(::write(fd.get(), "GET / HTTP/1.0\r\n\r\n", 18), 18);
  EXPECT_EQ(next(fd)->error().code(), static_cast<std::uint32_t>(Code::kInvalid));
  const Fd unreadable = connect();
  send_frame(unreadable.get(), "\xff\xff\xff");
  EXPECT_TRUE(next(unreadable)->has_error());
  EXPECT_FALSE(next(unreadable).has_value());
  const Fd good = connect();
  send(good, verify_request(1));
  EXPECT_TRUE(next(good)->has_progress());
}

TEST_F(ServerTest, TooManyConnectionsAreTurnedAway) {
  std::vector<Fd> many;
  for (std::size_t i = 0; i < kConnectionsMax; ++i) {
    many.push_back(connect());
    send(many.back(), verify_request(1));
    EXPECT_TRUE(next(many.back())->has_progress());
    EXPECT_TRUE(next(many.back())->has_export_done());
  }
  const Fd over = connect();
  EXPECT_EQ(next(over)->error().code(), static_cast<std::uint32_t>(Code::kBusy));
}

}  // namespace
}  // namespace mhv::mhvd
