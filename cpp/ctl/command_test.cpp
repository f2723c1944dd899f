// mhvctl's commands, from the command line to what an mhvd that answers by a script was asked.
#include "ctl/command.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/error.h"
#include "base/frame.h"
#include "base/temp_folder_test.h"
#include "mhv.pb.h"

namespace mhv::ctl {
namespace {

constexpr const char* kId = "11111111-2222-3333-4444-555555555555";

struct Outcome {
  int status = 0;
  std::string out;
  std::string err;
  protocol::Request request;  // the last; none: mhvd was not asked
};

// Runs one command against an mhvd that answers as many requests as it has replies, and then is not there any more.
class CommandTest : public testing::Test {
 protected:
  CommandTest() : listener_(Fd::own(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, socket().c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(listener_.get(), 1), 0);
  }

  Outcome run(std::vector<const char*> arguments, std::vector<protocol::Reply> replies = {}) {
    Outcome outcome;
    std::thread mhvd([&] {
      const Fd connection = Fd::own(::accept(listener_.get(), nullptr, nullptr));
      ::shutdown(listener_.get(), SHUT_RDWR);
      for (protocol::Reply& reply : replies) {
        const auto frame = receive_frame(connection.get());
        EXPECT_TRUE(frame && outcome.request.ParseFromString(frame->payload));
        reply.set_id(outcome.request.id());
        send_frame(connection.get(), reply.SerializeAsString());
      }
    });
    const std::string path = socket();
    arguments.insert(arguments.begin(), "mhvctl");
    arguments.insert(arguments.end(), {"--socket", path.c_str()});
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    outcome.status = ctl::run(static_cast<int>(arguments.size()), arguments.data());
    outcome.out = testing::internal::GetCapturedStdout();
    outcome.err = testing::internal::GetCapturedStderr();
    ::shutdown(listener_.get(), SHUT_RDWR);
    mhvd.join();
    return outcome;
  }

  std::string folder() const { return folder_.path(); }

 private:
  std::string socket() const { return folder_.path() + "/s"; }

  TempFolder folder_;
  Fd listener_;
};

protocol::Reply done() {
  protocol::Reply reply;
  reply.mutable_done();
  return reply;
}

protocol::Reply answer(const std::string& result) {
  protocol::Reply reply;
  reply.mutable_layer_answer()->set_result(result);
  return reply;
}

TEST_F(CommandTest, IntrospectAsksTheLayerAndPrintsATable) {
  const Outcome outcome = run({"introspect", "processes", "s1"}, {answer(R"([{"pid":1,"name":"in\u001bit"}])")});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.request.layer_call().guest(), "s1");
  EXPECT_EQ(outcome.request.layer_call().layer(), "introspection");
  EXPECT_EQ(outcome.request.layer_call().method(), "processes");
  EXPECT_EQ(outcome.request.layer_call().arguments(), "{}");
  EXPECT_EQ(outcome.out, "PID  NAME\n  1  in\\x1bit\n");
}

TEST_F(CommandTest, IntrospectNamesAProcessAndPrintsJson) {
  const Outcome outcome = run({"introspect", "files", "s1", "--pid", "0", "--json"}, {answer(R"([{"fd":3,"a":"\u001b"}])")});
  EXPECT_EQ(outcome.request.layer_call().arguments(), R"({"pid":0})");
  EXPECT_EQ(outcome.out, "{\"files\":[{\"fd\":3,\"a\":\"\\u001b\"}]}\n");
}

TEST_F(CommandTest, IntrospectKnowsItsKinds) {
  const Outcome outcome = run({"introspect", "secrets", "s1"});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_EQ(outcome.request.body_case(), protocol::Request::BODY_NOT_SET);
  EXPECT_EQ(run({"introspect", "files", "s1", "--pid", "-1"}).status, 2);
}

TEST_F(CommandTest, AnAnswerThatIsNoJsonIsAnError) {
  const Outcome outcome = run({"introspect", "log", "s1"}, {answer("\033]0;x\007")});
  EXPECT_EQ(outcome.status, 10 + static_cast<int>(Code::kCorrupt));
  EXPECT_EQ(outcome.err.find('\033'), std::string::npos);
}

TEST_F(CommandTest, ALayersErrorCannotCommandTheTerminal) {
  protocol::Reply reply;
  reply.mutable_error()->set_code(static_cast<std::uint32_t>(Code::kInvalid));
  reply.mutable_error()->set_message("no \033[2J");
  reply.mutable_error()->set_hint("try \033[31m");
  const Outcome outcome = run({"layer", "call", "s1", "heat-map", "pages", R"({"top":5})"}, {reply});
  EXPECT_EQ(outcome.request.layer_call().arguments(), R"({"top":5})");
  EXPECT_EQ(outcome.status, 11);
  EXPECT_EQ(outcome.err, "mhvctl: no \\x1b[2J\n  -> try \\x1b[31m\n");
}

protocol::Reply checkpoint() {
  protocol::Reply reply;
  reply.mutable_checkpoint()->mutable_checkpoint()->set_id(kId);
  return reply;
}

TEST_F(CommandTest, ExportsInTheFormatThatIsNamed) {
  protocol::Reply exported;
  exported.mutable_export_done()->set_bytes(4096);
  const std::string file = folder() + "/core";
  const Outcome outcome = run({"checkpoint", "export", "s1", kId, "--file", file.c_str(), "--format", "elf"}, {checkpoint(), exported});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.request.checkpoint_export().id(), kId);
  EXPECT_EQ(outcome.request.checkpoint_export().format(), protocol::EXPORT_ELF_CORE);
  EXPECT_TRUE(std::filesystem::exists(file));
  EXPECT_EQ(outcome.out.find("virsh"), std::string::npos) << outcome.out;
}

TEST_F(CommandTest, ExportsASaveImageByDefaultAndLeavesNoFileBehindAFailure) {
  protocol::Reply refused;
  refused.mutable_error()->set_code(static_cast<std::uint32_t>(Code::kNoSpace));
  const std::string file = folder() + "/image";
  const Outcome outcome = run({"checkpoint", "export", "s1", kId, "--file", file.c_str()}, {checkpoint(), refused});
  EXPECT_EQ(outcome.status, 10 + static_cast<int>(Code::kNoSpace));
  EXPECT_EQ(outcome.request.checkpoint_export().format(), protocol::EXPORT_SAVE_IMAGE);
  EXPECT_FALSE(std::filesystem::exists(file));
  EXPECT_EQ(run({"checkpoint", "export", "s1", kId, "--file", file.c_str(), "--format", "raw"}).status, 2);
}

TEST_F(CommandTest, AttachConfiguresServices) {
  std::ofstream(folder() + "/c.json") << R"({"on_finding":"hold"})";
  const std::string from_file = "integrity=@" + folder() + "/c.json";
  const Outcome outcome = run({"attach", "--service", "checkpoint", "--service", "introspection", "--service", "integrity", "--configure",
                               R"(introspection={"a":1})", "--configure", from_file.c_str(), "s1"},
                              {done()});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  const protocol::ServiceOptions& options = outcome.request.attach().options();
  EXPECT_EQ(outcome.request.attach().guest(), "s1");
  EXPECT_EQ(options.services_size(), 3);
  EXPECT_EQ(options.configurations().at("introspection"), R"({"a":1})");
  EXPECT_EQ(options.configurations().at("integrity"), R"({"on_finding":"hold"})");
}

TEST_F(CommandTest, WrongConfigurationsAreRefusedHere) {
  std::ofstream(folder() + "/long") << "{\"a\":\"" << std::string(64 << 10, 'x') << "\"}";
  const std::string too_long = "integrity=@" + folder() + "/long";
  for (const char* wrong : {"integrity", "={}", "integrity=", "integrity=[]", "integrity={", "integrity={} x", too_long.c_str()}) {
    const Outcome outcome = run({"attach", "s1", "--configure", wrong});
    EXPECT_EQ(outcome.status, 11) << wrong;
    EXPECT_EQ(outcome.request.body_case(), protocol::Request::BODY_NOT_SET) << wrong;
  }
  EXPECT_EQ(run({"attach", "s1", "--configure", "a={}", "--configure", "a={}"}).status, 11);
  EXPECT_EQ(run({"attach", "s1", "--configure", "a=@/nonexistent"}).status, 12);
}

TEST_F(CommandTest, ServicesComeAndGo) {
  const Outcome added = run({"service", "add", "s1", "integrity", "--configure", R"({"on_finding":"alert"})"}, {done()});
  EXPECT_EQ(added.out, "s1: integrity added\n");
  EXPECT_EQ(added.request.service_add().guest(), "s1");
  EXPECT_EQ(added.request.service_add().service(), "integrity");
  EXPECT_EQ(added.request.service_add().configuration(), R"({"on_finding":"alert"})");
}

TEST_F(CommandTest, AServiceIsTakenAway) {
  const Outcome removed = run({"service", "remove", "s1", "integrity"}, {done()});
  EXPECT_EQ(removed.out, "s1: integrity removed\n");
  EXPECT_EQ(removed.request.service_remove().guest(), "s1");
  EXPECT_EQ(removed.request.service_remove().service(), "integrity");
}

TEST_F(CommandTest, LayersAreListed) {
  protocol::Reply reply;
  reply.mutable_layer_list()->add_layers()->set_name("integrity");
  const Outcome outcome = run({"layer", "list"}, {reply});
  EXPECT_TRUE(outcome.request.has_layer_list());
  EXPECT_EQ(outcome.out, "NAME       VERSION  VENDOR\nintegrity  -        -\n");
}

TEST_F(CommandTest, AlertsAreFollowedByTheirNumber) {
  std::vector<protocol::Reply> replies(2);
  replies[0].mutable_alert_list()->add_alerts()->set_number(7);
  replies[0].mutable_alert_list()->add_alerts()->set_number(8);
  replies[1].mutable_alert_list()->add_alerts()->set_title("last");
  const Outcome outcome = run({"alerts", "s1", "--follow"}, replies);
  EXPECT_EQ(outcome.request.alert_list().after(), 8u);
  EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 3);
  EXPECT_EQ(outcome.status, 10 + static_cast<int>(Code::kUnavailable));
}

TEST_F(CommandTest, AlertsAfterANumber) {
  protocol::Reply reply;
  reply.mutable_alert_list()->add_alerts()->set_number(42);
  const Outcome outcome = run({"alerts", "s1", "--after", "41", "--json"}, {reply});
  EXPECT_EQ(outcome.request.alert_list().guest(), "s1");
  EXPECT_EQ(outcome.request.alert_list().after(), 41u);
  EXPECT_NE(outcome.out.find("{\"alerts\":[{\"number\":42,"), std::string::npos) << outcome.out;
}

}  // namespace
}  // namespace mhv::ctl
