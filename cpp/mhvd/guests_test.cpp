// Guests and their requests, with a worker that only speaks the protocol and a host without libvirt.
#include "mhvd/guests.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "base/temp_folder_test.h"
#include "mhvd/guest_conf.h"
#include "mhvd/store_key.h"
#include "mhvd/uffd_record.h"

namespace mhv::mhvd {
namespace {

using ::testing::HasSubstr;

constexpr const char* kUuid = "11111111-2222-3333-4444-555555555555";
constexpr const char* kRefusedId = "00000000-0000-0000-0000-000000000000";  // to the fake worker

// A "QEMU" that does nothing, to be killed.
class FakeQemu {
 public:
  FakeQemu() : pid_(::fork()) {
    if (pid_ == 0) {
      ::pause();
      ::_exit(0);
    }
  }
  ~FakeQemu() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  ProcessId id() const { return *identify_process(pid_); }

 private:
  const pid_t pid_;
};

class FakeHypervisor : public Hypervisor {
 public:
  Domain find(const std::string& name) override {
    const std::lock_guard lock(mutex_);
    if (name != domain.name && name != domain.uuid) throw Error(Code::kNotFound, "no guest \"" + name + "\"", "look");
    Domain out = domain;
    if (out.process && identify_process(out.process->pid) != out.process) out.process.reset();
    return out;
  }
  void check(const Domain&, const protocol::ServiceOptions&) override {
    const std::lock_guard lock(mutex_);
    if (refuses) throw Error(Code::kUnsupported, "interface tap0 is vhost-user", "use a tap");
  }
  Attachment attach(const Domain& which, const protocol::ServiceOptions&) override {
    const std::lock_guard lock(mutex_);
    if (breaks) throw Error(Code::kInternal, "QEMU says what nobody expects");
    Attachment out;
    out.process = *which.process;
    out.own_monitor = true;
    out.up.set_kvm(kvm);
    out.up.set_uffd_is_new(!tracking);
    out.fds.push_back(Fd::memory("fake"));
    out.mappings.emplace_back(0x1000, 0x2000);
    return out;
  }
  void start_paused(const Domain&) override {
    qemu = std::make_unique<FakeQemu>();
    set_process(qemu->id());
  }
  std::optional<Attachment> attach_memory(const Domain&) override {
    const std::lock_guard lock(mutex_);
    if (!tracking) return std::nullopt;
    Attachment out;
    out.fds.push_back(Fd::memory("fake"));
    return out;
  }
  void destroy(const Domain&) noexcept override {
    set_process(std::nullopt);
    qemu.reset();
  }
  void tracking_is_on(const std::string&) override {
    const std::lock_guard lock(mutex_);
    tracking = true;
  }
  void tracking_is_off(const std::string&) override {
    const std::lock_guard lock(mutex_);
    tracking = false;
  }

  protocol::ClockMoment keep_clock(const ProcessId&, const protocol::ClockMoment& since, std::chrono::nanoseconds lost_max) override {
    const std::lock_guard lock(mutex_);
    clocks_.push_back({since.host_ns(), lost_max});
    if (clocks_fail_) throw Error(Code::kBusy, "QEMU is in no system call");
    protocol::ClockMoment out;
    out.set_host_ns(since.host_ns() != 0 ? since.host_ns() : 7);
    return out;
  }

  std::vector<std::string> taps(const Domain&) override { return {}; }
  std::vector<Fd> interpose(const ProcessId&, const std::string&) override { return {}; }
  void undo_interpose(const ProcessId&, const std::string&) override {}
  Fd open_memory(const ProcessId&, std::pair<std::uint64_t, std::uint64_t>) override { return Fd::memory("fake"); }

  struct ClockCall {
    std::int64_t since = 0;
    std::chrono::nanoseconds lost_max;
  };
  std::vector<ClockCall> wait_for_clocks(std::size_t count) {
    for (int i = 0; i < 2000; ++i, ::usleep(5000)) {
      const std::lock_guard lock(mutex_);
      if (clocks_.size() >= count) return clocks_;
    }
    throw Error(Code::kInternal, "the clock is not kept");
  }
  void let_clocks_fail(bool fail) {
    const std::lock_guard lock(mutex_);
    clocks_fail_ = fail;
  }

  void set_process(std::optional<ProcessId> process) {
    const std::lock_guard lock(mutex_);
    domain.process = process;
  }

  std::mutex mutex_;
  Domain domain{kUuid, "s1", std::nullopt};
  bool refuses = false;
  bool breaks = false;
  bool kvm = false;
  std::vector<ClockCall> clocks_;
  bool clocks_fail_ = false;
  std::unique_ptr<FakeQemu> qemu;
  bool tracking = false;
};

class GuestsTest : public ::testing::Test {
 protected:
  GuestsTest() {
    config_.run_dir = folder_.file("run");
    config_.state_dir = folder_.file("state");
    config_.worker = MHV_FAKE_WORKER;
    config_.layer_folders = {folder_.file("layers")};
    restart();
  }
  ~GuestsTest() override { guests_.reset(); }

  void restart() {
    guests_.reset();
    guests_ = std::make_unique<Guests>(config_, host_);
    guests_->load();
  }

  protocol::Reply ask(const protocol::Request& request) {
    return guests_->handle(request, {}, [&](const protocol::Reply& reply) { progress_.push_back(reply.progress().stage()); });
  }

  void attach(const std::string& guest = "s1") {
    protocol::Request request;
    request.mutable_attach()->set_guest(guest);
    request.mutable_attach()->mutable_options()->add_services("checkpoint");
    ask(request);
  }

  protocol::Reply create(const std::string& name) {
    protocol::Request request;
    request.set_id(42);
    request.mutable_checkpoint_create()->set_guest("s1");
    request.mutable_checkpoint_create()->set_name(name);
    return ask(request);
  }

  protocol::GuestStatus status() { return guests_->status("s1").guests(0); }

  // Polls: what is waited for happens in other processes.
  void wait_for_state(const std::string& state) {
    for (int i = 0; i < 2000 && status().state() != state; ++i) ::usleep(5000);
    ASSERT_EQ(status().state(), state) << status().message();
  }

  static Code code_of(const std::function<void()>& work) {
    try {
      work();
    } catch (const Error& error) {
      EXPECT_FALSE(error.hint().empty()) << error.what();
      return error.code();
    }
    return Code::kInternal;
  }

  TempFolder folder_;
  Config config_;
  FakeHypervisor host_;
  std::vector<std::string> progress_;
  std::unique_ptr<Guests> guests_;
};

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
