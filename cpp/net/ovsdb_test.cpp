// Open vSwitch with its userspace datapath, a real one of the test's own, under the tap swap. Needs root and openvswitch-switch;
// says so and skips otherwise.
#include "net/ovsdb.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <functional>

#include "base/error.h"
#include "net/lab_test.h"
#include "net/tap_swap.h"

namespace mhv::net::testing {
namespace {

using ::testing::HasSubstr;

TEST(JsonStream, CutsObjectsApartWhereverTheyAreCut) {
  const std::string one = R"({"a":"}{\"\\","b":{"c":[{}]}})";
  const std::string two = R"({"d":1})";
  const std::string all = one + "\n " + two;
  for (std::size_t cut = 0; cut <= all.size(); ++cut) {
    JsonStream stream;
    std::vector<std::string> found;
    for (const std::string& part : {all.substr(0, cut), all.substr(cut)}) {
      stream.feed(part);
      while (auto object = stream.next()) found.push_back(*object);
    }
    ASSERT_EQ(found.size(), 2u);
    EXPECT_EQ(found[0], one);
    EXPECT_THAT(found[1], HasSubstr(two));
  }
}

TEST(JsonStream, RefusesWhatIsNoObjectOrTooLong) {
  JsonStream text;
  text.feed("[1]");
  EXPECT_THROW(text.next(), Error);
  JsonStream endless;
  EXPECT_THROW(endless.feed("{\"" + std::string(JsonStream::kObjectMax, 'a')), Error);
}

TEST(OpenVSwitch, WhereNoneRunsThereIsNoPort) {
  OpenVSwitch none("/nonexistent/db.sock");
  EXPECT_FALSE(none.has_port("tap0"));
  EXPECT_NO_THROW(none.reopen("tap0", 5));
}

class Process {
 public:
  explicit Process(const std::string& command) {
    pid_ = ::fork();
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::execl("/bin/sh", "sh", "-c", ("exec " + command).c_str(), nullptr);
    ::_exit(127);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  bool running() const {
    siginfo_t ended{};
    return ::waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid == 0;
  }

 private:
  pid_t pid_;
};

class OvsSwapTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!enter_lab().empty()) GTEST_SKIP() << enter_lab();
    if (::access("/usr/sbin/ovs-vswitchd", X_OK) != 0) GTEST_SKIP() << "needs the package openvswitch-switch, for a switch of its own";
    const std::string folder = folder_.path();
    ::setenv("OVS_RUNDIR", folder.c_str(), 1);
    sh("ovsdb-tool create " + folder + "/conf.db /usr/share/openvswitch/vswitch.ovsschema");
    const std::string database = "unix:" + folder + "/db.sock";
    server_.emplace("ovsdb-server --remote=p" + database + " --no-chdir -vconsole:off " + folder + "/conf.db");
    while (::access((folder + "/db.sock").c_str(), F_OK) != 0) {  // a readiness poll
      if (!server_->running()) throw std::runtime_error("ovsdb-server has ended");
      ::usleep(1000);
    }
    vsctl_ = "ovs-vsctl --timeout=20 --db=" + database + " ";
    sh(vsctl_ + "--no-wait init");
    switch_.emplace("ovs-vswitchd " + database + " --no-chdir --disable-system --pidfile=" + folder + "/vswitchd.pid -vconsole:off");
    guest_.emplace("tap0");
    sh("ip link set tap0 address fe:54:00:00:00:01 mtu 1450 up");
    sh("ip link add far0 type veth peer name far1 && ip link set far0 up && ip link set far1 up");
    sh(vsctl_ + "add-br br-int -- set bridge br-int datapath_type=netdev -- add-port br-int far0");
    sh(vsctl_ + "add-port br-int tap0 tag=7 -- set interface tap0 external_ids:iface-id=the-port external_ids:vm-uuid=the-guest");
    sh(vsctl_ + "set port far0 tag=7");
    outside_.emplace("far1");
    namespaces_.emplace(folder + "/netns");
    ovs_.emplace(folder + "/db.sock");
    before_ = row();
  }
  void TearDown() override {
    if (IsSkipped()) return;
    guest_.reset();
    if (namespaces_) namespaces_->remove("tap0");
    switch_.reset();
    server_.reset();
    if (std::system("ip link del far0; ip link del tap0 2>/dev/null; ip link del br-int 2>/dev/null; ip link del ovs-netdev") != 0) return;
  }
  std::string row() {
    return output_of(vsctl_ + "--columns=type,ofport,ofport_request,external_ids,error list interface tap0") +
           output_of(vsctl_ + "--columns=tag,_uuid list port tap0");
  }
  TapSwap swap(std::function<void()> before_change = {}) { return TapSwap(*namespaces_, *ovs_, std::move(before_change)); }
  // Right after a port was opened again, the datapath may still follow flows to the old one.
  void settle() {
    for (int i = 0; i < 500; ++i) {
      ASSERT_TRUE(outside_->send(1'000'000));
      if (guest_->receive(20)) break;
    }
    while (guest_->receive(20)) {
    }
  }
  void expect_both_ways(std::uint32_t number) {
    EXPECT_TRUE(guest_->send(number));
    EXPECT_EQ(outside_->receive(), number);
    EXPECT_TRUE(outside_->send(number + 1));
    EXPECT_EQ(guest_->receive(), number + 1);
  }
  void expect_plain() {
    EXPECT_EQ(row(), before_);
    EXPECT_FALSE(namespaces_->find("tap0"));
    EXPECT_EQ(output_of("ip -o link | grep -c mhv"), "0\n");
    settle();
    expect_both_ways(900);
  }

  Folder folder_;
  std::string vsctl_;
  std::optional<Process> server_;
  std::optional<Process> switch_;
  std::optional<GuestTap> guest_;
  std::optional<Outside> outside_;
  std::optional<Namespaces> namespaces_;
  std::optional<OpenVSwitch> ovs_;
  std::string before_;
};

TEST_F(OvsSwapTest, NothingPassesButThroughTheEngineAndThePortStaysTheSame) {
  expect_both_ways(1);
  std::vector<Fd> engine = swap().interpose("tap0");
  EXPECT_THAT(row(), HasSubstr("the-port"));
  // What OVS reads before any filter of the kernel does.
  for (std::uint32_t i = 10; i < 110; ++i) ASSERT_TRUE(guest_->send(i));
  settle();  // so the switch has forwarded since
  EXPECT_FALSE(outside_->receive(0));
  {
    PacketPath path(std::move(engine[0]));
    path.start();
    for (std::uint32_t i = 10; i < 110; ++i) ASSERT_EQ(outside_->receive(), i);
    expect_both_ways(200);
  }
  PacketPath path(std::move(swap().interpose("tap0")[0]));  // the next engine
  path.start();
  expect_both_ways(300);
  swap().undo("tap0");
  expect_plain();
}

TEST_F(OvsSwapTest, KilledAtAnyStepASwapIsFinishedAndUndone) {
  for (int step = 0;; ++step) {
    SCOPED_TRACE("before change " + std::to_string(step));
    const bool done = killed_at(step, [&](std::function<void()> at) { swap(std::move(at)).interpose("tap0"); });
    {
      PacketPath path(std::move(swap().interpose("tap0")[0]));
      path.start();
      settle();
      expect_both_ways(100);
      EXPECT_EQ(path.mark().value, 1u);
    }
    swap().undo("tap0");
    expect_plain();
    if (done || HasFailure()) return;
  }
}

TEST_F(OvsSwapTest, ASwitchThatStoppedBetweenTheTwoTransactionsIsPutRight) {
  // As a process leaves it that was killed between the two.
  sh(vsctl_ + "set interface tap0 type=mhv-reopens ofport_request=2");
  ovs_->reopen("tap0", 0);
  sh(vsctl_ + "clear interface tap0 ofport_request");
  expect_plain();
  sh(vsctl_ + "set interface tap0 type=internal");
  try {
    ovs_->reopen("tap0", 5);
    ADD_FAILURE() << "a port of another type was taken";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Code::kUnsupported);
  }
}

}  // namespace
}  // namespace mhv::net::testing
