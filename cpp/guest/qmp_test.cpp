#include "guest/qmp.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "base/error.h"
#include "guest/fixture_test.h"

namespace mhv::guest {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename Action>
Error error_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  return Error(Code::kInternal, "no error");
}

struct Pair {
  Fd ours, peer;
  Pair() {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) throw_errno("socketpair");
    ours = Fd::own(fds[0]);
    peer = Fd::own(fds[1]);
  }
  void say(std::string_view text) const { write_all(peer.get(), std::as_bytes(std::span(text)), "peer"); }
};

TEST(QmpWire, CutsLines) {
  LineReader reader("a\nb");
  EXPECT_EQ(reader.next(), "a");
  EXPECT_EQ(reader.next(), std::nullopt);
  reader.feed("c\r\n\r\n\nd");
  EXPECT_EQ(reader.next(), "bc");
  EXPECT_EQ(reader.next(), std::nullopt);
  EXPECT_EQ(std::move(reader).release(), "d");
}

TEST(QmpWire, LimitsALine) {
  LineReader reader;
  reader.feed(std::string(kQmpLineMax, 'x'));
  EXPECT_EQ(reader.next(), std::nullopt);
  reader.feed("x");
  EXPECT_EQ(error_of([&] { reader.next(); }).code(), Code::kInvalid);
  LineReader whole(std::string(kQmpLineMax + 1, 'x') + "\n");
  EXPECT_EQ(error_of([&] { whole.next(); }).code(), Code::kInvalid);
}

TEST(QmpWire, TellsMessagesApart) {
  EXPECT_EQ(parse_qmp_message(R"({"QMP": {"version": {}}})").kind, QmpKind::kGreeting);
  EXPECT_EQ(parse_qmp_message(R"({"event": "STOP", "timestamp": {}})").body["event"], "STOP");
  const auto reply = parse_qmp_message(R"({"return": {"a": 1}, "id": 7})");
  EXPECT_EQ(reply.id, 7u);
  EXPECT_EQ(reply.body["a"], 1);
  const auto error = parse_qmp_message(R"({"error": {"class": "GenericError", "desc": "no"}, "id": "text"})");
  EXPECT_EQ(error.id, std::nullopt);
  EXPECT_EQ(error.error_text, "no");
}

TEST(QmpWire, RefusesAnythingElse) {
  const std::string deep = "{\"return\":" + std::string(1'000'000, '[') + "}";
  for (const std::string& bad :
       {std::string("x"), std::string("[]"), std::string("{}"), std::string("{\"event\": 1}"), std::string("{\"error\": 1}"),
        std::string("{\"error\": {}}"), std::string("{\"error\": {\"class\": 1, \"desc\": 2}}"), std::string("{\"return\": 1"),
        std::string("\xff\xfe"), deep}) {
    EXPECT_EQ(error_of([&] { parse_qmp_message(bad); }).code(), Code::kInvalid) << bad.substr(0, 80);
  }
  EXPECT_EQ(parse_qmp_message("{\"return\": \"" + std::string(100, '[') + "\\\"[\"}").kind, QmpKind::kReturn);
}

TEST(Qmp, TakesUpAConnectionAndHandsItOn) {
  Pair pair;
  std::vector<std::string> events;
  Qmp qmp(std::move(pair.ours), true, "{\"event\": \"A\"}\n{\"ret");
  qmp.on_event([&](const Qmp::Json& event) { events.push_back(event["event"]); });
  pair.say("urn\": 5, \"id\": 1}\r\n{\"event\": \"B\"}\r\n{\"eve");
  EXPECT_EQ(qmp.call("query"), 5);
  qmp.pump();
  EXPECT_THAT(events, ElementsAre("A", "B"));
  auto [socket, rest] = std::move(qmp).release();
  EXPECT_EQ(rest, "{\"eve");
  EXPECT_TRUE(static_cast<bool>(socket));
  char sent[256] = {};
  ASSERT_GT(::recv(pair.peer.get(), sent, sizeof(sent) - 1, 0), 0);
  EXPECT_EQ(nlohmann::json::parse(sent), (nlohmann::json{{"execute", "query"}, {"id", 1}}));
}

TEST(Qmp, LeavesForeignRepliesAlone) {
  Pair pair;
  Qmp qmp(std::move(pair.ours), true);
  pair.say("{\"return\": 1, \"id\": 99}\n{\"error\": {\"class\": \"C\", \"desc\": \"d\"}, \"id\": 98}\n{\"return\": 2, \"id\": 1}\n");
  EXPECT_EQ(qmp.call("x"), 2);
}

TEST(Qmp, SaysWhatWentWrong) {
  Pair refused;
  Qmp a(std::move(refused.ours), true);
  refused.say("{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"never heard of it\"}, \"id\": 1}\n");
  const Error refusal = error_of([&] { a.call("nonsense"); });
  EXPECT_EQ(refusal.code(), Code::kInvalid);
  EXPECT_THAT(refusal.what(), HasSubstr("nonsense: CommandNotFound: never heard of it"));
  EXPECT_EQ(error_of([&] { a.call("x", Qmp::Json::object(), {}, std::chrono::milliseconds(1)); }).code(), Code::kUnavailable);

  Pair garbage;
  Qmp b(std::move(garbage.ours), true);
  garbage.say("SSH-2.0\n");
  EXPECT_EQ(error_of([&] { b.call("x"); }).code(), Code::kUnavailable);

  Pair closed;
  Qmp c(std::move(closed.ours), true);
  closed.peer.close();
  EXPECT_EQ(error_of([&] { c.call("x"); }).code(), Code::kGone);
  EXPECT_EQ(error_of([&] { c.pump(); }).code(), Code::kGone);
}

TEST(Qmp, TalksToARealQemu) {
  if (!testing::have_qemu()) GTEST_SKIP() << "no QEMU";
  testing::TempFolder folder;
  testing::TestQemu qemu(folder, "q", {});
  std::vector<std::string> events;
  qemu.qmp().on_event([&](const Qmp::Json& event) { events.push_back(event["event"]); });
  qemu.qmp().call("cont");
  qemu.qmp().call("stop");
  EXPECT_THAT(events, ElementsAre("RESUME", "STOP"));
  EXPECT_THAT(qemu.qmp().hmp("info version"), HasSubstr("."));
  EXPECT_EQ(error_of([&] { qemu.qmp().call("nonsense"); }).code(), Code::kInvalid);
  const Fd file = Fd::memory("given");
  const int number = file.get();
  EXPECT_TRUE(qemu.qmp().call("add-fd", Qmp::Json::object(), std::span(&number, 1)).contains("fdset-id"));
  qemu.kill_and_wait();
  EXPECT_EQ(error_of([&] { qemu.qmp().call("query-status"); }).code(), Code::kGone);
}

}  // namespace
}  // namespace mhv::guest
