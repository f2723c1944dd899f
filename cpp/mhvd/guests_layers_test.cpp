// Layers of guests: their processes, services that come and go, alerts.
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "mhvd/guests_fixture_test.h"

namespace mhv::mhvd {
namespace {

using testing::FakeQemu;
using testing::GuestsTest;
using ::testing::HasSubstr;

// Its jail is a program that writes down what it was given, and exits.
class GuestsWithLayersTest : public GuestsTest {
 protected:
  GuestsWithLayersTest() {
    const std::string package = folder_.file("layers/echo");
    std::filesystem::create_directories(package);
    std::ofstream(package + "/manifest.json") << R"({"name": "echo", "version": "1", "vendor": "v", "abi": 1, "program": "p",)"
                                              << R"( "policy": "fail-open", "claims": {"memory": "read"}})";
    config_.jail = folder_.file("jail");
    std::ofstream(config_.jail) << "#!/bin/sh\necho \"$@\" >" << folder_.file("said") << "\nls /proc/self/fd >>" << folder_.file("said")
                                << "\nexit 5\n";
    std::filesystem::permissions(config_.jail, std::filesystem::perms::all);
  }
  void change(bool add, const std::string& service) {
    protocol::Request request;
    if (add) {
      request.mutable_service_add()->set_guest("s1");
      request.mutable_service_add()->set_service(service);
    } else {
      request.mutable_service_remove()->set_guest("s1");
      request.mutable_service_remove()->set_service(service);
    }
    ask(request);
  }
  // Why "echo" holds the network.
  std::string hold() {
    const protocol::GuestStatus now = status();
    for (const auto& layer : now.layers()) {
      if (layer.name() == "echo") return layer.network_hold();
    }
    return "";
  }
  void wait_for_swapped(bool swapped) {
    for (int i = 0; i < 2000 && host_.is_swapped() != swapped; ++i) ::usleep(5000);
    ASSERT_EQ(host_.is_swapped(), swapped) << status().message();
  }
  std::vector<std::string> services() {
    const auto options = status().options();
    return {options.services().begin(), options.services().end()};
  }
};

TEST_F(GuestsWithLayersTest, StartsALayersProcessAndSaysHowItEnded) {
  const FakeQemu qemu;
  host_.set_process(qemu.id());
  attach();
  create("layer");
  for (int i = 0; i < 2000 && status().message().find("echo") == std::string::npos; ++i) ::usleep(5000);
  EXPECT_EQ(status().message(), "echo 7: its process exited with status 5");
  const std::string said = read_file(folder_.file("said"), 4096);
  EXPECT_THAT(said, HasSubstr("--package " + folder_.file("layers/echo") + " --program p --uid "));
  EXPECT_THAT(said, HasSubstr("--descriptors 4"));
  EXPECT_THAT(said, HasSubstr("\n3\n4\n5\n6\n"));
}

TEST_F(GuestsWithLayersTest, ServicesAreAddedAndRemoved) {
  const FakeQemu qemu;
  host_.set_process(qemu.id());
  EXPECT_EQ(code_of([&] { change(true, "echo"); }), Code::kNotFound);
  attach();
  EXPECT_EQ(code_of([&] { change(true, "warp"); }), Code::kInvalid);
  EXPECT_EQ(code_of([&] { change(false, "echo"); }), Code::kNotFound);
  change(true, "echo");
  change(true, "echo");  // again
  EXPECT_THAT(services(), ::testing::ElementsAre("checkpoint", "echo"));
  restart();
  wait_for_state("attached");
  EXPECT_THAT(services(), ::testing::ElementsAre("checkpoint", "echo"));
  change(false, "echo");
  EXPECT_THAT(services(), ::testing::ElementsAre("checkpoint"));
  EXPECT_EQ(code_of([&] { change(false, "checkpoint"); }), Code::kInvalid);
}

TEST_F(GuestsWithLayersTest, AlertsAreNumbered) {
  const FakeQemu qemu;
  host_.set_process(qemu.id());
  attach();
  create("alert");
  create("alert");
  protocol::Request request;
  request.mutable_alert_list()->set_guest("s1");
  EXPECT_EQ(ask(request).alert_list().alerts_size(), 2);
  request.mutable_alert_list()->set_after(1);
  const auto alerts = ask(request).alert_list().alerts();
  ASSERT_EQ(alerts.size(), 1);
  EXPECT_EQ(alerts[0].number(), 2);
  EXPECT_EQ(alerts[0].title(), "something");
}

TEST_F(GuestsWithLayersTest, AHoldOfTheNetworkOutlivesWorkerMhvdAndQemu) {
  auto qemu = std::make_unique<FakeQemu>();
  host_.set_process(qemu->id());
  attach();
  create("hold");  // of a service that it has not
  change(true, "echo");
  EXPECT_EQ(hold(), "");
  create("hold");
  wait_for_swapped(true);
  EXPECT_EQ(hold(), "something");
  create("die");
  restart();
  EXPECT_EQ(hold(), "something");
  qemu = std::make_unique<FakeQemu>();
  host_.set_process(qemu->id());
  guests_->poke_all();
  wait_for_state("attached");
  wait_for_swapped(true);
  create("release");
  wait_for_swapped(false);
  EXPECT_EQ(hold(), "");
  create("hold");
  wait_for_swapped(true);
  change(false, "echo");
  wait_for_swapped(false);
}

}  // namespace
}  // namespace mhv::mhvd
