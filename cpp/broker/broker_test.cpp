// mhv-broker, the program, against a stock QEMU. Needs root; says so and skips otherwise.
#include <gmock/gmock.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <atomic>
#include <functional>
#include <thread>

#include "base/error.h"
#include "base/frame.h"
#include "broker/testing.h"
#include "client/broker_client.h"
#include "mhv.pb.h"

#if defined(__SANITIZE_THREAD__)
#define MHV_TSAN 1
#else
#define MHV_TSAN 0
#endif

namespace mhv::broker::testing {
namespace {

class BrokerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: it starts mhv-broker";
    if (::access("/usr/bin/qemu-system-x86_64", X_OK) != 0) GTEST_SKIP() << "needs qemu-system-x86_64";
    if (MHV_TSAN) GTEST_SKIP() << "ThreadSanitizer's own threads and ptrace get in each other's way: run by the other builds";
    folder_.emplace();
    broker_.emplace(folder_->path());
    client_.emplace(broker_->socket());
  }
  Qemu& qemu(bool shared = true) {
    if (!qemu_) qemu_.emplace(folder_->path(), shared);
    return *qemu_;
  }
  int device_in_qemu() { return qemu().add_fd(client_->uffd_device().get()); }

  static Error error_of(const std::function<void()>& call) {
    try {
      call();
    } catch (const Error& e) {
      return e;
    }
    ADD_FAILURE() << "nothing was thrown";
    return Error(Code::kInternal, "");
  }

  std::optional<Folder> folder_;
  std::optional<Broker> broker_;
  std::optional<BrokerClient> client_;
  std::optional<Qemu> qemu_;
};

TEST_F(BrokerTest, InjectsAUserfaultfdOfQemusMemory) {
  const int device = device_in_qemu();
  ASSERT_GE(device, 0);
  BrokerClient::Injected injected = client_->inject_uffd(qemu().pid(), qemu().start_time(), device);
  EXPECT_EQ(own_link(injected.uffd.get()), "anon_inode:[userfaultfd]");
  EXPECT_GE(injected.attempts, 1u);
  uffdio_api api{};
  api.api = UFFD_API;
  ASSERT_EQ(::ioctl(injected.uffd.get(), UFFDIO_API, &api), 0);
  // It is QEMU's memory that it registers: an address of the guest's RAM, which this process does not have.
  const Qemu::Mapping ram = qemu().mapping("/memfd:", "rw-s");
  ASSERT_NE(ram.start, 0u);
  uffdio_register range{};
  range.range = {ram.start, ram.end - ram.start};
  range.mode = UFFDIO_REGISTER_MODE_MISSING;
  EXPECT_EQ(::ioctl(injected.uffd.get(), UFFDIO_REGISTER, &range), 0) << std::strerror(errno);
  EXPECT_EQ(::ioctl(injected.uffd.get(), UFFDIO_UNREGISTER, &range.range), 0) << std::strerror(errno);
  // Taken again by its number, as an engine that was restarted does.
  EXPECT_EQ(own_link(client_->take_uffd(qemu().pid(), qemu().start_time(), injected.number).get()), "anon_inode:[userfaultfd]");
  EXPECT_THAT(qemu().command("{\"execute\":\"query-status\"}"), ::testing::HasSubstr("running"));
}

// 2,000 injections while the monitor is busy, with a signal for the traced thread at another moment of each.
TEST_F(BrokerTest, QemuLivesThroughThousandsOfInjections) {
  const int device = device_in_qemu();
  std::atomic<bool> stop{false};
  std::atomic<int> begun{0};
  std::atomic<int> answers{0};
  std::atomic<int> failures{0};
  std::thread traffic([&] {
    while (!stop) {
      if (qemu().command("{\"execute\":\"query-block\"}").find("return") == std::string::npos) ++failures;
      ++answers;
    }
  });
  std::thread signals([&] {
    for (int seen = 0; !stop; seen = begun) {
      while (begun == seen && !stop) std::this_thread::yield();
      for (int spin = (seen * 7919) % 50'000; spin > 0; --spin) __builtin_ia32_pause();
      ::syscall(SYS_tgkill, qemu().pid(), qemu().pid(), SIGWINCH);
    }
  });
  std::uint64_t attempts = 0;
  int done = 0;
  for (int i = 0; i < 2000; ++i) {
    ++begun;
    try {
      attempts += client_->inject_uffd(qemu().pid(), qemu().start_time(), device).attempts;
      ++done;
    } catch (const Error& e) {
      ADD_FAILURE() << e.what();
      break;
    }
  }
  stop = true;
  traffic.join();
  signals.join();
  EXPECT_EQ(done, 2000);
  EXPECT_EQ(failures, 0);
  EXPECT_GT(answers, 0);
  EXPECT_TRUE(qemu().running());
  EXPECT_THAT(qemu().command("{\"execute\":\"query-status\"}"), ::testing::HasSubstr("running"));
  RecordProperty("attempts", std::to_string(attempts));
  RecordProperty("monitor_answers", answers);
}

TEST_F(BrokerTest, QemuKilledInTheMiddleIsGone) {
  const int device = device_in_qemu();
  const pid_t pid = qemu().pid();
  const std::uint64_t start = qemu().start_time();
  std::thread killer([&] {
    while (client_->take_uffd(pid, start, client_->inject_uffd(pid, start, device).number)) {
      if (::access(("/proc/" + std::to_string(pid) + "/fd/200").c_str(), F_OK) == 0) break;
    }
    ::kill(pid, SIGKILL);
  });
  BrokerClient second(broker_->socket());
  const Error e = error_of([&] {
    for (int i = 0; i < 100'000; ++i) second.inject_uffd(pid, start, device);
  });
  killer.join();
  EXPECT_EQ(e.code(), Code::kGone) << e.what();
  qemu().kill();
  EXPECT_EQ(error_of([&] { client_->open_guest(pid, start); }).code(), Code::kGone);
  EXPECT_TRUE(client_->ping());
}

// A real machine's clock; that the guest was paused is only said.
TEST_F(BrokerTest, GivesAKvmClockBackWhatItLost) {
  if (!kvm_makes_machines()) GTEST_SKIP() << "needs a /dev/kvm that makes machines; no guest has to run in one";
  constexpr std::int64_t kSecond = 1'000'000'000;
  qemu_.emplace(folder_->path(), true, "kvm");
  const auto keep = [&](const protocol::ClockMoment& since, std::int64_t lost_max) {
    return client_->keep_clock(qemu().pid(), qemu().start_time(), since, static_cast<std::uint64_t>(lost_max));
  };
  protocol::ClockMoment since = keep({}, 0).since();
  EXPECT_GT(since.host_ns(), 0);
  since.set_host_ns(since.host_ns() - 100 * kSecond);  // so the guest is behind
  const protocol::KeptClock kept = keep(since, 200 * kSecond);
  EXPECT_NEAR(static_cast<double>(kept.given_ns()), 100e9, 20e9);
  EXPECT_EQ(kept.since().host_ns(), since.host_ns());
  EXPECT_LT(keep(since, 200 * kSecond).given_ns(), 20e9) << "it has it";
  // Somebody else stopped it for longer.
  since.set_host_ns(since.host_ns() - 100 * kSecond);
  const protocol::KeptClock suspended = keep(since, 50 * kSecond);
  EXPECT_EQ(suspended.given_ns(), 0u);
  EXPECT_GT(suspended.since().host_ns(), since.host_ns());
  // It never goes back.
  since.set_host_ns(since.host_ns() + 300 * kSecond);
  EXPECT_EQ(keep(since, 500 * kSecond).given_ns(), 0u);
  EXPECT_GE(keep(suspended.since(), 0).since().guest_ns(), suspended.since().guest_ns());
  EXPECT_TRUE(qemu().running());
}

TEST_F(BrokerTest, ATcgGuestHasNoClockToKeep) {
  EXPECT_EQ(error_of([&] { client_->keep_clock(qemu().pid(), qemu().start_time(), {}, 0); }).code(), Code::kNotFound);
}

TEST_F(BrokerTest, AStoppedQemuStaysStopped) {
  const int device = device_in_qemu();
  ::kill(qemu().pid(), SIGSTOP);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(qemu().pid()), &info, WSTOPPED | WNOWAIT), 0);
  EXPECT_EQ(error_of([&] { client_->inject_uffd(qemu().pid(), qemu().start_time(), device); }).code(), Code::kBusy);
  const std::string stat = "/proc/" + std::to_string(qemu().pid()) + "/stat";
  bool stopped = false;  // the kernel puts it back to sleep on its own, a moment after the detach
  for (int i = 0; i < 100'000 && !stopped; ++i) stopped = read_file(stat, 65536).find(") T ") != std::string::npos;
  EXPECT_TRUE(stopped);
  ::kill(qemu().pid(), SIGCONT);
  EXPECT_GE(client_->inject_uffd(qemu().pid(), qemu().start_time(), device).number, 0);
  EXPECT_THAT(qemu().command("{\"execute\":\"query-status\"}"), ::testing::HasSubstr("running"));
}

TEST_F(BrokerTest, RefusesOtherDescriptorsOfQemu) {
  const Fd other = Fd::open("/dev/null", O_RDWR);
  const int number = qemu().add_fd(other.get());
  const auto start = qemu().start_time();
  EXPECT_EQ(error_of([&] { client_->inject_uffd(qemu().pid(), start, number); }).code(), Code::kPermission);
  EXPECT_EQ(error_of([&] { client_->inject_uffd(qemu().pid(), start, 4000); }).code(), Code::kNotFound);
  EXPECT_EQ(error_of([&] { client_->inject_uffd(qemu().pid(), start, -1); }).code(), Code::kInvalid);
  EXPECT_EQ(error_of([&] { client_->take_uffd(qemu().pid(), start, number); }).code(), Code::kPermission);
  EXPECT_EQ(error_of([&] { client_->take_uffd(qemu().pid(), start, 4000); }).code(), Code::kNotFound);
}

TEST_F(BrokerTest, RefusesProcessesThatAreNotTheNamedQemu) {
  EXPECT_EQ(error_of([&] { client_->open_guest(qemu().pid(), qemu().start_time() + 1); }).code(), Code::kGone);
  EXPECT_EQ(error_of([&] { client_->inject_uffd(qemu().pid(), qemu().start_time() + 1, 3); }).code(), Code::kGone);
  EXPECT_EQ(error_of([&] { client_->open_guest(1 << 22, 5); }).code(), Code::kGone);
  EXPECT_EQ(error_of([&] { client_->open_guest(1, 5); }).code(), Code::kInvalid);
  const std::uint64_t mine = identify_process(::getpid())->start_time;
  const Error e = error_of([&] { client_->open_guest(::getpid(), mine); });
  EXPECT_EQ(e.code(), Code::kPermission);
  EXPECT_FALSE(e.hint().empty());
}

// PAGEMAP_SCAN, as the engine uses it, on a descriptor opened by another, more privileged process.
struct PmScanArg {
  std::uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted, category_mask, category_anyof_mask,
      return_mask;
};
static_assert(sizeof(PmScanArg) == 96);
struct PageRegion {
  std::uint64_t start, end, categories;
};

int use_guest_fds_as_nobody(const BrokerClient::GuestFds& fds, const Qemu::Mapping& ram, int uffd) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgid(kNobody) != 0 || ::setuid(kNobody) != 0) ::_exit(1);
    char text[256];
    if (::read(fds.maps.get(), text, sizeof text) <= 0) ::_exit(2);
    std::uint64_t word = 0x6d6876;
    if (::pwrite(fds.mem.get(), &word, sizeof word, static_cast<off_t>(ram.start + 0x500000)) != sizeof word) ::_exit(3);
    word = 0;
    if (::pread(fds.mem.get(), &word, sizeof word, static_cast<off_t>(ram.start + 0x500000)) != sizeof word || word != 0x6d6876) ::_exit(4);
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = (1u << 12) | (1u << 13) | (1u << 15);  // WP_HUGETLBFS_SHMEM, WP_UNPOPULATED, WP_ASYNC
    if (::ioctl(uffd, UFFDIO_API, &api) != 0) ::_exit(5);
    uffdio_register range{};
    range.range = {ram.start, ram.end - ram.start};
    range.mode = UFFDIO_REGISTER_MODE_WP;
    if (::ioctl(uffd, UFFDIO_REGISTER, &range) != 0) ::_exit(6);
    PageRegion found[64];
    PmScanArg scan{sizeof(PmScanArg), 3, ram.start, ram.end, 0, reinterpret_cast<std::uintptr_t>(found), 64, 0, 0, 1u << 1, 0, 1u << 1};
    if (::ioctl(fds.pagemap.get(), _IOWR('f', 16, PmScanArg), &scan) < 0) ::_exit(7);
    if (::ioctl(uffd, UFFDIO_UNREGISTER, &range.range) != 0) ::_exit(8);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(BrokerTest, GuestDescriptorsWorkInAnUnprivilegedProcess) {
  const int device = device_in_qemu();
  const BrokerClient::Injected injected = client_->inject_uffd(qemu().pid(), qemu().start_time(), device);
  const BrokerClient::GuestFds fds = client_->open_guest(qemu().pid(), qemu().start_time());
  EXPECT_EQ(use_guest_fds_as_nobody(fds, qemu().mapping("/memfd:", "rw-s"), injected.uffd.get()), 0);
  EXPECT_EQ(own_link(fds.pidfd.get()).substr(0, 5), "anon_");
  qemu().kill();
  pollfd poll_for{fds.pidfd.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&poll_for, 1, 10'000), 1);
}

TEST_F(BrokerTest, OpensTheFileBehindSharedRam) {
  const Qemu::Mapping ram = qemu().mapping("/memfd:", "rw-s");
  const auto start = qemu().start_time();
  const Fd file = client_->open_mapping(qemu().pid(), start, ram.start, ram.end);
  struct stat info {};
  ASSERT_EQ(::fstat(file.get(), &info), 0);
  EXPECT_EQ(info.st_size, 64 << 20);
  EXPECT_EQ(::fcntl(file.get(), F_GETFL) & O_ACCMODE, O_RDWR);
  const BrokerClient::GuestFds fds = client_->open_guest(qemu().pid(), start);
  qemu().command("{\"execute\":\"stop\"}");  // its firmware writes there
  std::array<std::byte, 4096> by_file{}, by_memory{};
  pread_all(file.get(), by_file, 0xf0000, "ram");  // the firmware's copy
  pread_all(fds.mem.get(), by_memory, ram.start + 0xf0000, "ram");
  EXPECT_EQ(by_file, by_memory);
  EXPECT_EQ(error_of([&] { client_->open_mapping(qemu().pid(), start, ram.start, ram.end - 4096); }).code(), Code::kNotFound);
}

TEST_F(BrokerTest, WhatIsForReadingCannotBeOpenedAgainForWriting) {
  const Qemu::Mapping ram = qemu().mapping("/memfd:", "rw-s");
  const Fd file = client_->open_mapping(qemu().pid(), qemu().start_time(), ram.start, ram.end, /*read_only=*/true);
  struct stat info {};
  ASSERT_EQ(::fstat(file.get(), &info), 0);
  EXPECT_EQ(::fcntl(file.get(), F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_EQ(info.st_mode & 0777, 0704u);
}

TEST_F(BrokerTest, RefusesMappingsThatAreNoSharedRam) {
  const auto start = qemu().start_time();
  const Qemu::Mapping libc = qemu().mapping("libc.so", "r-xp");
  const Qemu::Mapping program = qemu().mapping("qemu-system", "r-xp");
  const Qemu::Mapping heap = qemu().mapping("[heap]", "rw-p");
  EXPECT_EQ(error_of([&] { client_->open_mapping(qemu().pid(), start, libc.start, libc.end); }).code(), Code::kPermission);
  EXPECT_EQ(error_of([&] { client_->open_mapping(qemu().pid(), start, program.start, program.end); }).code(), Code::kPermission);
  EXPECT_EQ(error_of([&] { client_->open_mapping(qemu().pid(), start, heap.start, heap.end); }).code(), Code::kNotFound);
  EXPECT_EQ(error_of([&] { client_->open_mapping(qemu().pid(), start, 0, ~0ull); }).code(), Code::kNotFound);
}

TEST_F(BrokerTest, RefusesPrivateMappingsOfMemoryFiles) {
  const Qemu::Mapping ram = qemu(/*shared=*/false).mapping("/memfd:", "rw-p");
  ASSERT_NE(ram.start, 0u);
  EXPECT_EQ(error_of([&] { client_->open_mapping(qemu().pid(), qemu().start_time(), ram.start, ram.end); }).code(), Code::kPermission);
}

TEST_F(BrokerTest, ConnectsToAMonitorOfQemuOnly) {
  const std::string qmp = folder_->path() + "/qmp/";
  const Fd monitor = client_->connect_monitor(qemu().own_monitor());
  std::array<char, 8> greeting{};
  ASSERT_EQ(::recv(monitor.get(), greeting.data(), greeting.size(), MSG_WAITALL), 8);
  EXPECT_EQ(std::string(greeting.data(), 7), "{\"QMP\":");

  for (const std::string& path :
       {std::string("/run/docker.sock"), qmp, qmp + "..", qmp + "../broker.sock", qmp + "a/b", folder_->path() + "/broker.sock",
        std::string(), qmp + std::string(300, 'x'), qmp + std::string("own.sock\0x", 10)}) {
    EXPECT_EQ(error_of([&] { client_->connect_monitor(path); }).code(), Code::kInvalid) << path;
  }
  EXPECT_EQ(error_of([&] { client_->connect_monitor(qmp + "absent.sock"); }).code(), Code::kNotFound);
  std::filesystem::create_symlink(qemu().own_monitor(), qmp + "link.sock");
  EXPECT_NE(error_of([&] { client_->connect_monitor(qmp + "link.sock"); }).code(), Code::kNotFound);
  Fd::open(qmp + "file.sock", O_CREAT | O_RDWR);
  EXPECT_EQ(error_of([&] { client_->connect_monitor(qmp + "file.sock"); }).code(), Code::kInvalid);

  const Fd mine = Fd::own(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, (qmp + "mine.sock").c_str());
  ASSERT_EQ(::bind(mine.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(error_of([&] { client_->connect_monitor(qmp + "mine.sock"); }).code(), Code::kUnavailable);  // nobody listens
  ASSERT_EQ(::listen(mine.get(), 4), 0);
  EXPECT_EQ(error_of([&] { client_->connect_monitor(qmp + "mine.sock"); }).code(), Code::kPermission);
}

bool served_as(uid_t uid, const std::string& socket) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgid(uid) != 0 || ::setuid(uid) != 0) ::_exit(2);
    BrokerClient client(socket);
    ::_exit(client.ping() ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST_F(BrokerTest, ServesRootAndItsUserOnly) {
  EXPECT_TRUE(client_->ping());
  EXPECT_TRUE(served_as(kNobody, broker_->socket()));
  EXPECT_FALSE(served_as(1, broker_->socket()));
  ASSERT_EQ(::chmod(broker_->socket().c_str(), 0666), 0);  // even where the file lets everybody in
  EXPECT_FALSE(served_as(1, broker_->socket()));
  EXPECT_TRUE(served_as(kNobody, broker_->socket()));
}

TEST_F(BrokerTest, DropsAConnectionThatSendsGarbage) {
  for (const std::string& bytes :
       {std::string("GET / HTTP/1.1\r\n\r\n"), std::string("MHV1\x01\0\0\0\xff\xff\xff\xff", 12), std::string("MHV1\x02\0\0\0\0\0\0\0", 12),
        std::string("MHV1\x01\0\0\0\x03\0\0\0\xff\xff\xff", 15), std::string("MHV1\x01\0\x01\0\0\0\0\0", 12), std::string("MH")}) {
    const Fd raw = try_connect(broker_->socket());
    write_all(raw.get(), std::as_bytes(std::span(bytes)), "garbage");
    ::shutdown(raw.get(), SHUT_WR);
    char c = 0;
    EXPECT_LE(::read(raw.get(), &c, 1), 0);
  }
  const Fd raw = try_connect(broker_->socket());
  send_frame(raw.get(), std::string(kFramePayloadMax, 'x'));
  EXPECT_FALSE(receive_frame(raw.get()).has_value());
  EXPECT_TRUE(client_->ping());
}

TEST_F(BrokerTest, AnEmptyRequestGetsAnErrorAndTheConnectionGoesOn) {
  const Fd raw = try_connect(broker_->socket());
  for (int i = 0; i < 2; ++i) {
    send_frame(raw.get(), "");
    const std::optional<Frame> frame = receive_frame(raw.get());
    ASSERT_TRUE(frame.has_value());
    protocol::BrokerReply reply;
    ASSERT_TRUE(reply.ParseFromString(frame->payload));
    EXPECT_EQ(reply.error().code(), static_cast<unsigned>(Code::kInvalid));
  }
}

TEST_F(BrokerTest, LimitsItsConnections) {
  std::vector<Fd> open;
  for (int i = 0; i < 80; ++i) open.push_back(try_connect(broker_->socket()));
  EXPECT_TRUE(broker_->running());
  open.clear();
  // The closed ones are forgotten as new ones come.
  bool served = false;
  for (int i = 0; i < 1000 && !served; ++i) served = BrokerClient(broker_->socket()).ping();
  EXPECT_TRUE(served);
}

TEST_F(BrokerTest, TheClientFindsARestartedBroker) {
  EXPECT_TRUE(client_->ping());
  broker_->end(SIGKILL);
  EXPECT_FALSE(client_->ping());
  EXPECT_EQ(error_of([&] { client_->uffd_device(); }).code(), Code::kUnavailable);
  broker_.emplace(folder_->path());  // over the stale socket
  EXPECT_TRUE(client_->ping());
  EXPECT_TRUE(is_uffd_device(client_->uffd_device().get()));
}

TEST_F(BrokerTest, EndsCleanlyWhenAsked) {
  EXPECT_TRUE(client_->ping());  // a connection is open
  const int status = broker_->end(SIGTERM);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT_NE(::access(broker_->socket().c_str(), F_OK), 0);
}

TEST_F(BrokerTest, OneBrokerAFolder) {
  Child second({MHV_BROKER_PROGRAM, "--run-dir", folder_->path(), "--user", "nobody"}, 0, 0);
  const int status = second.end(0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1);
  EXPECT_TRUE(client_->ping());
}

TEST_F(BrokerTest, KeepsFewPrivileges) {
  ASSERT_TRUE(client_->ping());  // it serves, so it has given up what it will
  const std::string pid = std::to_string(broker_->pid());
  const std::string status = read_file("/proc/" + pid + "/status", 65536);
  EXPECT_THAT(status, ::testing::HasSubstr("CapEff:\t000001000008000e"));
  EXPECT_THAT(status, ::testing::HasSubstr("CapBnd:\t000001000008000e"));
  EXPECT_THAT(status, ::testing::HasSubstr("NoNewPrivs:\t1"));
  EXPECT_THAT(status, ::testing::HasSubstr("Seccomp:\t2"));
}

}  // namespace
}  // namespace mhv::broker::testing
