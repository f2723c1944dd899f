// Guests and their requests.
#include "mhvd/guests.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>

#include "mhvd/guest_conf.h"
#include "mhvd/guests_fixture_test.h"
#include "mhvd/store_key.h"
#include "mhvd/uffd_record.h"

namespace mhv::mhvd {
namespace {

using testing::FakeQemu;
using testing::GuestsTest;
using ::testing::HasSubstr;
using testing::kRefusedId;
using testing::kUuid;

TEST_F(GuestsTest, AttachesARunningGuestAndPassesRequestsOn) {
  const FakeQemu qemu;
  host_.set_process(qemu.id());
  attach();
  EXPECT_EQ(status().state(), "attached");
  EXPECT_EQ(status().qemu_pid(), qemu.id().pid);
  const auto reply = create("first");
  EXPECT_EQ(reply.id(), 42u);
  EXPECT_EQ(reply.checkpoint().checkpoint().name(), "first");
  EXPECT_EQ(create("refuse").error().code(), static_cast<std::uint32_t>(Code::kNoSpace));
  EXPECT_EQ(code_of([&] { attach(); }), Code::kExists);
  EXPECT_EQ(code_of([&] { attach("other"); }), Code::kNotFound);
  protocol::Request unknown;
  unknown.mutable_checkpoint_verify()->set_guest("other");
  EXPECT_EQ(code_of([&] { ask(unknown); }), Code::kNotFound);
}

TEST_F(GuestsTest, ARefusedGuestStaysUnknown) {
  host_.refuses = true;
  EXPECT_EQ(code_of([&] { attach(); }), Code::kUnsupported);
  EXPECT_TRUE(guests_->status("").guests().empty());
  EXPECT_TRUE(list_guests(config_.guests_dir()).empty());
}

TEST_F(GuestsTest, AWorkerThatDiesIsStartedAgainWithTheSameUserfaultfd) {
  const FakeQemu qemu;
  host_.set_process(qemu.id());
  attach();
  for (int i = 0; i < 2000 && !host_.tracking; ++i) ::usleep(1000);
  const auto reply = create("die");
  EXPECT_EQ(reply.error().code(), static_cast<std::uint32_t>(Code::kUnavailable));
  EXPECT_THAT(reply.error().message(), HasSubstr("the guest runs on"));
  EXPECT_EQ(create("after").checkpoint().checkpoint().name(), "after");
  wait_for_state("attached");
  EXPECT_EQ(status().worker_restarts(), 1u);
  EXPECT_EQ(status().message(), "memory, again");
}

TEST_F(GuestsTest, FollowsTheQemu) {
  attach();
  EXPECT_EQ(status().state(), "stopped");
  auto qemu = std::make_unique<FakeQemu>();
  host_.set_process(qemu->id());
  guests_->poke(kUuid);
  wait_for_state("attached");
  const ProcessId first = qemu->id();
  qemu.reset();
  host_.set_process(std::nullopt);
  guests_->poke(kUuid);
  wait_for_state("stopped");
  const FakeQemu second;
  host_.set_process(second.id());
  guests_->poke_all();
  wait_for_state("attached");
  EXPECT_NE(status().qemu_pid(), first.pid);
}

TEST_F(GuestsTest, SeesTheEndOfAQemuThatItCouldNotAttach) {
  attach();
  auto qemu = std::make_unique<FakeQemu>();
  host_.breaks = true;
  host_.set_process(qemu->id());
  guests_->poke(kUuid);
  wait_for_state("failed");
  qemu.reset();  // and nobody tells
  wait_for_state("stopped");
}

TEST_F(GuestsTest, AClockOnKvmGetsItsPausesBack) {
  const FakeQemu qemu;
  host_.kvm = true;
  host_.set_process(qemu.id());
  attach();
  EXPECT_EQ(host_.wait_for_clocks(1).at(0).since, 0);  // right as it is
  create("pause");
  const auto second = host_.wait_for_clocks(2).at(1);
  EXPECT_EQ(second.since, 7);
  EXPECT_GE(second.lost_max, std::chrono::milliseconds(2));
  EXPECT_LT(second.lost_max, std::chrono::milliseconds(100));
  host_.let_clocks_fail(true);
  create("pause");
  const std::size_t tried = host_.wait_for_clocks(4).size();  // again and again
  host_.let_clocks_fail(false);
  EXPECT_EQ(host_.wait_for_clocks(tried + 1).back().since, 7);
  const std::size_t before = host_.wait_for_clocks(0).size();
  create("die");
  create("after");
  EXPECT_EQ(host_.wait_for_clocks(before + 1).back().since, 0);  // the new worker counts from nothing
}

TEST_F(GuestsTest, AClockUnderTcgIsLeftAlone) {
  const FakeQemu qemu;
  host_.set_process(qemu.id());
  attach();
  create("pause");
  create("after");
  EXPECT_TRUE(host_.wait_for_clocks(0).empty());
}

TEST_F(GuestsTest, KnowsItsGuestsAgainAfterARestart) {
  const FakeQemu qemu;
  host_.set_process(qemu.id());
  attach();
  restart();
  wait_for_state("attached");
}

TEST_F(GuestsTest, DetachKeepsAndForgetDeletes) {
  const FakeQemu qemu;
  host_.set_process(qemu.id());
  attach();
  protocol::Request request;
  request.mutable_detach()->set_guest("s1");
  ask(request);
  EXPECT_EQ(status().state(), "detached");
  EXPECT_EQ(status().worker_pid(), 0);
  EXPECT_FALSE(host_.tracking);
  request.mutable_checkpoint_verify()->set_guest("s1");
  EXPECT_TRUE(ask(request).has_done());
  request.mutable_forget()->set_guest("s1");
  ask(request);
  EXPECT_TRUE(guests_->status("").guests().empty());
  EXPECT_FALSE(std::filesystem::exists(config_.guest_dir(kUuid)));
}

TEST_F(GuestsTest, AHoldOutlivesTheWorker) {
  const FakeQemu qemu;
  host_.set_process(qemu.id());
  attach();
  protocol::Request request;
  request.mutable_hold()->set_guest("s1");
  request.mutable_hold()->set_reason("live migration");
  request.mutable_hold()->set_timeout_s(600);
  ask(request);
  wait_for_state("held");
  create("die");
  for (int i = 0; i < 2000 && status().worker_restarts() == 0; ++i) ::usleep(5000);  // until then it is held by the one that died
  wait_for_state("held");
  EXPECT_EQ(status().message(), "live migration");
  request.mutable_release()->set_guest("s1");
  ask(request);
  wait_for_state("attached");
}

TEST_F(GuestsTest, SaysWhyAWorkerCannotServe) {
  const FakeQemu qemu;
  host_.domain.name = "broken";
  host_.set_process(qemu.id());
  try {
    attach("broken");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kVersion);
    EXPECT_STREQ(error.what(), "");  // no key
  }
}

TEST_F(GuestsTest, ARequestHearsWhyItsWorkerEnded) {
  const FakeQemu qemu;
  host_.set_process(qemu.id());
  attach();
  try {
    create("broken");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kPermission);
    EXPECT_STREQ(error.what(), "another key");
  }
}

TEST_F(GuestsTest, ForgetsAGuestWhoseWorkerFindsThatItCannotServe) {
  const FakeQemu qemu;
  host_.domain.name = "unreadable";
  host_.set_process(qemu.id());
  attach("unreadable");
  protocol::Request request;
  request.mutable_forget()->set_guest("unreadable");
  ask(request);
  EXPECT_FALSE(std::filesystem::exists(config_.guest_dir(kUuid)));
}

// A store of another version, of another key, or without its FORMAT.
TEST_F(GuestsTest, ForgetsAStoreThatNobodyCanOpen) {
  const FakeQemu qemu;
  host_.domain.name = "broken";
  host_.set_process(qemu.id());
  protocol::GuestConf conf;
  conf.set_uuid(kUuid);
  conf.set_name("broken");
  conf.mutable_options()->add_services("checkpoint");
  save_guest_conf(config_.guest_dir(kUuid), conf);
  const UffdRecord tracked{qemu.id(), 7, true};
  save_uffd_record(config_.uffd_record_path(kUuid), tracked);
  restart();
  protocol::Request request;
  request.mutable_forget()->set_guest("broken");
  ask(request);
  EXPECT_FALSE(std::filesystem::exists(config_.guest_dir(kUuid)));
  EXPECT_EQ(load_uffd_record(config_.uffd_record_path(kUuid)), tracked) << "nobody ended the tracking: the next attach goes on with it";
}

TEST_F(GuestsTest, GivesAWorkerTheKeyOfItsGuestAlone) {
  const FakeQemu qemu;
  config_.store_key.emplace(std::string(32, 'h'));
  host_.domain.name = "broken";
  host_.set_process(qemu.id());
  try {
    attach("broken");
    FAIL();
  } catch (const Error& error) {
    std::string expected;
    for (const std::uint8_t byte : guest_store_key(*config_.store_key, kUuid).bytes) expected += fmt::format("{:02x}", byte);
    EXPECT_EQ(error.what(), expected);
  }
}

TEST_F(GuestsTest, AStoppedGuestIsStartedAtTheCheckpoint) {
  attach();
  protocol::Request request;
  request.mutable_checkpoint_restore()->set_guest("s1");
  request.mutable_checkpoint_restore()->set_id(kUuid);
  const protocol::Reply reply = ask(request);
  EXPECT_TRUE(reply.has_restore());
  EXPECT_FALSE(reply.restore().in_place());
  EXPECT_EQ(status().state(), "attached");
}

TEST_F(GuestsTest, AStoppedGuestThatCannotBeRestoredStaysStopped) {
  attach();
  protocol::Request request;
  request.mutable_checkpoint_restore()->set_guest("s1");
  request.mutable_checkpoint_restore()->set_id(kRefusedId);
  EXPECT_TRUE(ask(request).has_error());
  wait_for_state("stopped");
}

}  // namespace
}  // namespace mhv::mhvd
