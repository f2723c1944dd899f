#include "mhvd/qmp_bridge.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>

#include "base/error.h"
#include "guest/qmp.h"
#include "mhvd/libvirt_monitor.h"

namespace mhv::mhvd {
namespace {

using Json = nlohmann::json;

// QEMU behind libvirt: numbers its answers by itself.
class FakeMonitor : public Monitor {
 public:
  std::string execute(const std::string& command, std::span<const int> fds) override {
    const Json parsed = Json::parse(command);
    EXPECT_FALSE(parsed.contains("id"));
    if (parsed["execute"] == "gone") throw Error(Code::kGone, "the guest does not run");
    if (parsed["execute"] == "rubbish") return "not json";
    if (parsed["execute"] == "refused") return R"({"id":"libvirt-7","error":{"class":"GenericError","desc":"no"}})";
    Json answer{{"id", "libvirt-7"}, {"return", {{"command", parsed["execute"]}, {"fds", fds.size()}}}};
    if (!fds.empty()) {
      struct stat status {};
      EXPECT_EQ(::fstat(fds[0], &status), 0);
    }
    return answer.dump();
  }
};

TEST(QmpBridge, CarriesCommandsDescriptorsAndErrors) {
  QmpBridge bridge(std::make_unique<FakeMonitor>());
  guest::Qmp qmp(bridge.take_worker_end(), true);
  EXPECT_EQ(qmp.call("query-status")["command"], "query-status");
  const Fd file = Fd::memory("fd");
  const std::array<int, 1> fds{file.get()};
  EXPECT_EQ(qmp.call("add-fd", Json::object(), fds)["fds"], 1);
  EXPECT_EQ(qmp.call("query-status")["fds"], 0);
  for (const char* bad : {"refused", "rubbish"}) EXPECT_THROW(qmp.call(bad), Error) << bad;
  EXPECT_EQ(qmp.call("query-kvm")["command"], "query-kvm");
}

// libvirtd died with a command under way: QEMU may have carried it out. That must not look like a refusal.
TEST(QmpBridge, ClosesWhenACommandsFateIsUnknown) {
  QmpBridge bridge(std::make_unique<FakeMonitor>());
  guest::Qmp qmp(bridge.take_worker_end(), true);
  try {
    qmp.call("gone");
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kGone) << error.what();
  }
}

TEST(QmpBridge, CarriesEvents) {
  QmpBridge bridge(std::make_unique<FakeMonitor>());
  guest::Qmp qmp(bridge.take_worker_end(), true);
  std::vector<std::string> events;
  qmp.on_event([&](const Json& event) { events.push_back(event["event"]); });
  bridge.post_event(R"({"event":"STOP","timestamp":{"seconds":1,"microseconds":2}})");
  while (events.empty()) qmp.call("query-status");
  EXPECT_EQ(events, std::vector<std::string>{"STOP"});
}

TEST(QmpBridge, EndsWithItsPeer) {
  auto bridge = std::make_unique<QmpBridge>(std::make_unique<FakeMonitor>());
  bridge->take_worker_end().close();
  bridge.reset();
  QmpBridge other(std::make_unique<FakeMonitor>());
  const Fd end = other.take_worker_end();
  ASSERT_EQ(::write(end.get(), "no json\n", 8), 8);
  std::array<char, 256> answer{};
  ASSERT_GT(::read(end.get(), answer.data(), answer.size() - 1), 0);
  EXPECT_TRUE(Json::parse(answer.data()).contains("error"));
}

TEST(QmpBridge, RepeatsOnlyWhatIsTheSameTwice) {
  EXPECT_TRUE(repeatable(R"({"execute":"cont"})"));
  EXPECT_TRUE(repeatable(R"({"execute":"query-jobs"})"));
  EXPECT_FALSE(repeatable(R"({"execute":"snapshot-load"})"));
  EXPECT_FALSE(repeatable("[]"));
  EXPECT_FALSE(repeatable("{"));
}

}  // namespace
}  // namespace mhv::mhvd
