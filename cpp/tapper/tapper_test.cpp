// mhv-tapper, the program, with a stock QEMU behind its tap. Needs root; says so and skips otherwise. Those with a guest also need its
// kernel (devstack/guest/build).
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>

#include <functional>

#include "base/error.h"
#include "broker/testing.h"
#include "client/broker_client.h"
#include "net/lab_test.h"
#include "net/packet_path.h"

#if defined(__SANITIZE_THREAD__)
#define MHV_TSAN 1
#else
#define MHV_TSAN 0
#endif

namespace mhv::tapper::testing {
namespace {

using broker::testing::Child;
using broker::testing::connect_when_ready;
using broker::testing::kNobody;
using net::PacketPath;
using net::testing::output_of;
using net::testing::sh;
using ::testing::HasSubstr;

// A tap descriptor that a child process inherits.
Fd open_tap(const std::string& name) {
  Fd fd = Fd::own(::open("/dev/net/tun", O_RDWR | O_NONBLOCK));
  ifreq request{};
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  std::memcpy(request.ifr_name, name.data(), name.size());
  if (!fd || ::ioctl(fd.get(), TUNSETIFF, &request) != 0) throw std::runtime_error("no tap");
  return fd;
}

std::string guest_images() {
  const char* state = std::getenv("MHV_STATE");
  const std::filesystem::path folder = std::filesystem::path(state != nullptr ? state : "/opt/nova-mhv") / "guest";
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    if (std::filesystem::exists(entry.path() / "done") && std::filesystem::exists(entry.path() / "initrd.gz")) return entry.path();
  }
  return {};
}

class Qemu {
 public:
  // `tap`: "" for none. `images`: "" for no operating system.
  Qemu(const std::string& folder, const std::string& tap, const std::string& images) : socket_(folder + "/qmp/" + tap + "q.sock") {
    std::vector<std::string> arguments = {"/usr/bin/qemu-system-x86_64",
                                          "-accel",
                                          "tcg",
                                          "-machine",
                                          "pc",
                                          "-m",
                                          "128",
                                          "-nodefaults",
                                          "-display",
                                          "none",
                                          "-sandbox",
                                          "on,obsolete=deny,elevateprivileges=deny,spawn=deny",
                                          "-qmp",
                                          "unix:" + socket_ + ",server=on,wait=off"};
    Fd fd;
    if (!tap.empty()) {
      fd = open_tap(tap);
      arguments.insert(arguments.end(), {"-netdev", "tap,id=net0,fd=" + std::to_string(fd.get()), "-device",
                                         "virtio-net-pci,netdev=net0,mac=52:54:00:00:00:01,romfile="});
    }
    if (!images.empty()) {
      arguments.insert(arguments.end(), {"-kernel", images + "/vmlinuz", "-initrd", images + "/initrd.gz", "-append",
                                         "console=ttyS0 quiet no_timer_check mhv.ip=10.77.0.2/24 mhv.mib=8 mhv.rate=0"});
    }
    child_.emplace(arguments, kNobody, kNobody);
    fd.close();
    monitor_ = connect_when_ready(socket_, *child_);
    read_line();
    command("qmp_capabilities");
    id = *identify_process(child_->pid());
  }
  std::string command(const std::string& name) {
    const std::string text = "{\"execute\":\"" + name + "\"}";
    if (::send(monitor_.get(), text.data(), text.size(), MSG_NOSIGNAL) < 0) return {};
    std::string line;
    while ((line = read_line()).find("\"event\"") != std::string::npos) {
    }
    return line;
  }
  void kill() { child_->end(SIGKILL); }
  ProcessId id;

 private:
  std::string read_line() {
    std::string line;
    for (char c = 0; net::testing::readable(monitor_.get(), net::testing::kSoonMs) && ::read(monitor_.get(), &c, 1) == 1 && c != '\n';) {
      line += c;
    }
    return line;
  }

  const std::string socket_;
  std::optional<Child> child_;
  Fd monitor_;
};

class Tapper {
 public:
  explicit Tapper(const std::string& folder)
      : socket(folder + "/tapper.sock"), child_({MHV_BROKER_PROGRAM, "--run-dir", folder, "--user", "nobody"}, 0, 0) {
    connect_when_ready(socket, child_);
  }
  int end(int signal) { return child_.end(signal); }
  pid_t pid() const { return child_.pid(); }
  const std::string socket;

 private:
  Child child_;
};

// An engine: a process that passes everything.
class Engine {
 public:
  explicit Engine(Fd eq0) : pid_(::fork()) {
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    PacketPath path(std::move(eq0));
    path.start();
    for (;;) ::pause();
  }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  ~Engine() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  void stall() {
    ::kill(pid_, SIGSTOP);
    ::waitpid(pid_, nullptr, WUNTRACED);
  }
  void go_on() { ::kill(pid_, SIGCONT); }

 private:
  const pid_t pid_;
};

// ICMP echo to the guest: its replies are what it sends.
class Pinger {
 public:
  Pinger() : fd_(Fd::own(::socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP))) {
    const int bytes = 64 << 20;
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
  }
  bool send(std::uint16_t number) {
    icmphdr echo{};
    echo.type = ICMP_ECHO;
    echo.un.echo.id = htons(kId);
    echo.un.echo.sequence = htons(number);
    const std::uint32_t sum = ICMP_ECHO * 256u + kId + number;  // type, id, sequence
    echo.checksum = htons(static_cast<std::uint16_t>(~((sum & 0xffff) + (sum >> 16))));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(0x0a4d0002);
    return ::sendto(fd_.get(), &echo, sizeof echo, 0, reinterpret_cast<const sockaddr*>(&to), sizeof to) == sizeof echo;
  }
  // The number of a reply; nullopt: none within `ms`.
  std::optional<std::uint16_t> reply(int ms) {
    std::array<char, 2048> packet;
    while (net::testing::readable(fd_.get(), ms)) {
      const ssize_t n = ::recv(fd_.get(), packet.data(), packet.size(), 0);
      icmphdr echo{};
      if (n < static_cast<ssize_t>(sizeof(iphdr) + sizeof echo)) continue;
      std::memcpy(&echo, packet.data() + sizeof(iphdr), sizeof echo);
      if (echo.type == ICMP_ECHOREPLY && ntohs(echo.un.echo.id) == kId) return ntohs(echo.un.echo.sequence);
    }
    return std::nullopt;
  }
  // How many of `count` were answered, one after the other.
  int answered(int count) {
    int replies = 0;
    for (int i = 0; i < count; ++i) {
      const auto number = static_cast<std::uint16_t>(++last_);
      if (send(number) && reply(net::testing::kSoonMs) == number) ++replies;
    }
    return replies;
  }
  void wait_for_guest() {
    for (int i = 0; i < 600; ++i) {  // a readiness poll: it boots
      send(0xffff);
      if (reply(200)) break;
    }
    while (reply(300)) {
    }
  }

 private:
  static constexpr std::uint16_t kId = 0x4d48;
  Fd fd_;
  std::uint32_t last_ = 0;
};

class TapperTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (MHV_TSAN) GTEST_SKIP() << "run by the other builds";
    if (!net::testing::enter_lab().empty()) GTEST_SKIP() << net::testing::enter_lab();
    if (::access("/usr/bin/qemu-system-x86_64", X_OK) != 0) GTEST_SKIP() << "needs qemu-system-x86_64";
    sh("ip link add br0 type bridge && ip addr add 10.77.0.1/24 dev br0 && ip link set br0 up");
    folder_.emplace();
    tapper_.emplace(folder_->path());
    client_.emplace(tapper_->socket);
  }
  void TearDown() override {
    if (!folder_) return;
    qemu_.reset();
    tapper_.reset();
    sh("umount " + folder_->path() + "/netns/* 2>/dev/null; ip link del br0; ip link del tap0 2>/dev/null; true");
  }
  Qemu& start(const std::string& images) {
    qemu_.emplace(folder_->path(), "tap0", images);
    sh("ip link set tap0 master br0 up");
    return *qemu_;
  }
  std::vector<Fd> interpose(const std::string& tap = "tap0") { return client_->interpose(qemu_->id.pid, qemu_->id.start_time, tap); }
  void undo() { client_->undo_interpose(qemu_->id.pid, qemu_->id.start_time, "tap0"); }
  static Code code_of(const std::function<void()>& call) {
    try {
      call();
    } catch (const Error& e) {
      return e.code();
    }
    ADD_FAILURE() << "nothing was thrown";
    return Code::kInternal;
  }

  std::optional<broker::testing::Folder> folder_;
  std::optional<Tapper> tapper_;
  std::optional<TapperClient> client_;
  std::optional<Qemu> qemu_;
};

TEST_F(TapperTest, OnlyATapOfThatQemuIsTouched) {
  start("");
  Qemu other(folder_->path(), "", "");
  const net::testing::GuestTap foreign("tap9");
  sh("ip link set tap9 master br0 up");
  const auto [pid, started] = qemu_->id;
  EXPECT_EQ(code_of([&] { interpose("tap9"); }), Code::kPermission);
  EXPECT_EQ(code_of([&] { interpose("br0"); }), Code::kPermission);
  EXPECT_EQ(code_of([&] { interpose("../tap0"); }), Code::kInvalid);
  EXPECT_EQ(code_of([&] { interpose(""); }), Code::kInvalid);
  EXPECT_EQ(code_of([&] { client_->interpose(other.id.pid, other.id.start_time, "tap0"); }), Code::kPermission);
  EXPECT_EQ(code_of([&] { client_->interpose(pid, started + 1, "tap0"); }), Code::kGone);
  const ProcessId self = *identify_process(::getpid());
  EXPECT_EQ(code_of([&] { client_->interpose(self.pid, self.start_time, "tap0"); }), Code::kPermission);
  EXPECT_EQ(interpose().size(), 1u);
  EXPECT_EQ(code_of([&] { client_->undo_interpose(other.id.pid, other.id.start_time, "tap0"); }), Code::kPermission);
  EXPECT_THAT(output_of("ip -d -o link show tap0"), HasSubstr("veth"));
  undo();
  EXPECT_THAT(output_of("ip -d -o link show tap0"), HasSubstr("tun"));
  EXPECT_THAT(qemu_->command("query-status"), HasSubstr("return"));
}

TEST_F(TapperTest, ItMayDoNothingElse) {
  const ProcessId self = *identify_process(::getpid());
  // It answers, so it has given up what it will.
  ASSERT_EQ(code_of([&] { client_->interpose(self.pid, self.start_time, "tap0"); }), Code::kPermission);
  const std::string status = read_file("/proc/" + std::to_string(tapper_->pid()) + "/status", 1 << 16);
  EXPECT_THAT(status, HasSubstr("CapEff:\t0000000000281006"));  // sys_admin, sys_ptrace, net_admin, dac_*
  EXPECT_THAT(status, HasSubstr("Seccomp:\t2"));
  EXPECT_THAT(status, HasSubstr("NoNewPrivs:\t1"));
}

TEST_F(TapperTest, WhatAnEndedGuestLeftIsClearedAway) {
  start("");
  interpose();
  qemu_->kill();
  EXPECT_EQ(code_of([&] { interpose(); }), Code::kGone);
  undo();
  EXPECT_EQ(output_of("ip -o link | grep -c 'tap0\\|mhv'"), "0\n");
  EXPECT_TRUE(std::filesystem::is_empty(folder_->path() + "/netns"));
}

TEST_F(TapperTest, WhatAnUnpluggedTapLeftIsClearedAway) {
  start("");
  Qemu other(folder_->path(), "", "");
  interpose();
  EXPECT_EQ(code_of([&] { client_->undo_interpose(other.id.pid, other.id.start_time, "tap0"); }), Code::kPermission);
  qemu_->kill();  // the tap goes with the descriptor, as when it is unplugged
  client_->undo_interpose(other.id.pid, other.id.start_time, "tap0");
  EXPECT_EQ(output_of("ip -o link | grep -c 'tap0\\|mhv'"), "0\n");
  EXPECT_TRUE(std::filesystem::is_empty(folder_->path() + "/netns"));
}

TEST_F(TapperTest, ARealGuestThroughEverythingThatMayHappenToTheEngine) {
  const std::string images = guest_images();
  if (images.empty()) GTEST_SKIP() << "needs the test guest: devstack/guest/build";
  Qemu& qemu = start(images);
  Pinger ping;
  ping.wait_for_guest();
  ASSERT_EQ(ping.answered(100), 100);

  std::optional<Engine> engine(std::in_place, std::move(interpose()[0]));
  EXPECT_EQ(ping.answered(500), 500);

  // Dead: nothing of the guest leaves, and it lives.
  engine.reset();
  for (std::uint16_t i = 0; i < 200; ++i) ASSERT_TRUE(ping.send(i));
  EXPECT_FALSE(ping.reply(500));
  EXPECT_THAT(qemu.command("query-status"), HasSubstr("running"));

  // The privileged part may have died too.
  tapper_.reset();
  tapper_.emplace(folder_->path());
  engine.emplace(std::move(interpose()[0]));
  EXPECT_EQ(ping.answered(500), 500);

  // Stalled: more than all queues hold, and still the monitor answers.
  engine->stall();
  for (int i = 0; i < 15'000; ++i) ASSERT_TRUE(ping.send(static_cast<std::uint16_t>(i)));
  EXPECT_THAT(qemu.command("query-status"), HasSubstr("running"));
  EXPECT_FALSE(ping.reply(0));
  engine->go_on();
  while (ping.reply(1000)) {
  }
  EXPECT_EQ(ping.answered(500), 500);

  engine.reset();
  undo();
  EXPECT_EQ(ping.answered(100), 100);
  EXPECT_THAT(output_of("ip -d -o link show tap0"), ::testing::AllOf(HasSubstr("tun"), HasSubstr("master br0")));
}

}  // namespace
}  // namespace mhv::tapper::testing
