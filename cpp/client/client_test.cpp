#include "client/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <thread>

#include "base/frame.h"

namespace mhv::client {
namespace {

// Answers the connections of one client, one after the other, by a script.
class FakeServer {
 public:
  using Script = std::function<void(int connection)>;

  explicit FakeServer(std::vector<Script> scripts) {
    std::string pattern = "/tmp/mhv-client-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
    listener_ = Fd::own(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path().c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(listener_.get(), 4), 0);
    thread_ = std::thread([this, scripts = std::move(scripts)] {
      for (const Script& script : scripts) {
        const Fd connection = Fd::own(::accept(listener_.get(), nullptr, nullptr));
        script(connection.get());
      }
    });
  }
  ~FakeServer() {
    thread_.join();
    std::filesystem::remove_all(folder_);
  }
  std::string path() const { return folder_ + "/s"; }

 private:
  std::string folder_;
  Fd listener_;
  std::thread thread_;
};

protocol::Request read_request(int connection, std::size_t fds = 0) {
  auto frame = receive_frame(connection);
  EXPECT_TRUE(frame.has_value());
  EXPECT_EQ(frame->fds.size(), fds);
  protocol::Request request;
  EXPECT_TRUE(request.ParseFromString(frame->payload));
  return request;
}

void answer(int connection, protocol::Reply reply, std::uint64_t id) {
  reply.set_id(id);
  send_frame(connection, reply.SerializeAsString());
}

protocol::Request status_request() {
  protocol::Request request;
  request.mutable_status();
  return request;
}

Error failure_of(Client& client) {
  try {
    client.call(status_request());
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return Error(Code::kInternal, "");
}

TEST(Client, SendsDescriptorsAndPassesProgressOn) {
  FakeServer server({[](int connection) {
    const auto request = read_request(connection, 1);
    EXPECT_EQ(request.checkpoint_export().id(), "x");
    protocol::Reply reply;
    reply.mutable_progress()->set_stage("copying memory");
    answer(connection, reply, request.id());
    reply.mutable_export_done()->set_bytes(7);
    answer(connection, reply, request.id());
  }});
  Client client(server.path());
  protocol::Request request;
  request.mutable_checkpoint_export()->set_id("x");
  std::vector<std::string> stages;
  const std::array<int, 1> fds{0};
  const auto reply = client.call(
      request, [&](const protocol::Progress& p) { stages.push_back(p.stage()); }, fds);
  EXPECT_EQ(reply.export_done().bytes(), 7u);
  EXPECT_EQ(stages, std::vector<std::string>{"copying memory"});
}

TEST(Client, ThrowsTheErrorOfTheReplyAndKeepsTheConnection) {
  FakeServer server({[](int connection) {
    const auto first = read_request(connection);
    protocol::Reply reply;
    reply.mutable_error()->set_code(static_cast<std::uint32_t>(Code::kNotFound));
    reply.mutable_error()->set_message("no guest");
    reply.mutable_error()->set_hint("look");
    answer(connection, reply, first.id());
    const auto second = read_request(connection);
    EXPECT_NE(second.id(), first.id());
    reply.mutable_done();
    answer(connection, reply, second.id());
  }});
  Client client(server.path());
  const Error error = failure_of(client);
  EXPECT_EQ(error.code(), Code::kNotFound);
  EXPECT_STREQ(error.what(), "no guest");
  EXPECT_EQ(error.hint(), "look");
  EXPECT_TRUE(client.call(status_request()).has_done());
}

TEST(Client, AnswersUnavailableWhenMhvdEndsAndConnectsAgain) {
  FakeServer server({[](int connection) { read_request(connection); },
                     [](int connection) {
                       protocol::Reply reply;
                       reply.mutable_done();
                       answer(connection, reply, read_request(connection).id());
                     }});
  Client client(server.path());
  const Error error = failure_of(client);
  EXPECT_EQ(error.code(), Code::kUnavailable);
  EXPECT_TRUE(client.call(status_request()).has_done());
}

TEST(Client, AnswersUnavailableWhenMhvdEndsBeforeItReadTheRequest) {
  FakeServer server({[](int connection) {
    pollfd entry{connection, POLLIN, 0};
    EXPECT_EQ(::poll(&entry, 1, 10'000), 1);
  }});
  Client client(server.path());
  const Error error = failure_of(client);
  EXPECT_EQ(error.code(), Code::kUnavailable);
  EXPECT_THAT(error.what(), testing::HasSubstr("mhvd ended"));
  EXPECT_FALSE(error.hint().empty());
}

TEST(Client, SaysThatMhvdIsNotRunning) {
  Client client("/nonexistent/mhvd.sock");
  const Error error = failure_of(client);
  EXPECT_EQ(error.code(), Code::kUnavailable);
  EXPECT_THAT(error.what(), ::testing::HasSubstr("mhvd does not answer on /nonexistent/mhvd.sock"));
  EXPECT_THAT(error.hint(), ::testing::HasSubstr("systemctl start mhvd"));
  EXPECT_THROW(Client(std::string(200, 'x')).call(status_request()), Error);
}

TEST(Client, RefusesAnAnswerToAnotherRequest) {
  FakeServer server({[](int connection) {
    protocol::Reply reply;
    reply.mutable_done();
    answer(connection, reply, read_request(connection).id() + 1);
  }});
  Client client(server.path());
  EXPECT_THROW(client.call(status_request()), Error);
}

TEST(DiskPolicy, RoundTripsAndNamesTheValidOnes) {
  for (const char* text : {"required", "best-effort", "none"}) EXPECT_STREQ(disk_policy_name(parse_disk_policy(text)), text);
  EXPECT_THROW(parse_disk_policy("all"), Error);
}

}  // namespace
}  // namespace mhv::client
