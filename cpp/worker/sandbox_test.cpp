// Each case runs in a child process, for nothing gets out of the sandbox again. 100 from the child: it went as it should.
#include "worker/sandbox.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/landlock.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <thread>

#include "base/error.h"
#include "base/fd.h"
#include "base/frame.h"
#include "guest/uffd_abi.h"
#include "store/store.h"

#if defined(__SANITIZE_THREAD__)
#define MHV_TSAN 1
#else
#define MHV_TSAN 0
#endif

namespace mhv::worker {
namespace {

constexpr int kGood = 100;

class SandboxTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (MHV_TSAN) GTEST_SKIP() << "ThreadSanitizer itself makes calls that the sandbox forbids: run by the other builds";
    std::string pattern = (std::filesystem::temp_directory_path() / "mhv-sandbox-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    store_ = folder_ + "/store";
    std::filesystem::create_directory(store_);
    Fd::open(folder_ + "/outside", O_CREAT | O_RDWR);
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  // The wait status of a child that ran `body` inside the sandbox; its exit status is what `body` returns.
  int run(const std::function<int()>& body) {
    const pid_t child = ::fork();
    if (child == 0) {
      const rlimit no_core{0, 0};
      ::setrlimit(RLIMIT_CORE, &no_core);
      ::alarm(60);
      try {
        enter_sandbox(store_);
        ::_exit(body());
      } catch (const std::exception& e) {
        (void)!::write(2, e.what(), std::strlen(e.what()));
        (void)!::write(2, "\n", 1);
        ::_exit(99);
      }
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return status;
  }
  void expect_good(const std::function<int()>& body) {
    const int status = run(body);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == kGood) << "status " << status;
  }
  void expect_killed(const std::function<int()>& body) {
    const int status = run(body);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) << "status " << status;
  }
  static bool refused(long result) { return result < 0 && (errno == EACCES || errno == EPERM); }

  std::string folder_;
  std::string store_;
};

bool have_landlock() { return ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION) >= 1; }

TEST_F(SandboxTest, ReachesNoPathButTheStore) {
  if (!have_landlock()) GTEST_SKIP() << "this kernel has no Landlock";
  expect_good([&] {
    if (!refused(::open("/etc/passwd", O_RDONLY))) return 1;
    if (!refused(::open((folder_ + "/outside").c_str(), O_RDONLY))) return 2;
    if (!refused(::open((folder_ + "/outside").c_str(), O_WRONLY))) return 3;
    if (!refused(::open((folder_ + "/new").c_str(), O_CREAT | O_WRONLY, 0600))) return 4;
    if (!refused(::open((store_ + "/../outside").c_str(), O_RDONLY))) return 5;
    if (!refused(::unlink((folder_ + "/outside").c_str()))) return 6;
    if (!refused(::truncate((folder_ + "/outside").c_str(), 0))) return 7;
    if (!refused(::mkdir((folder_ + "/dir").c_str(), 0700))) return 8;
    if (!refused(::open("/proc/self/mem", O_RDWR))) return 9;
    if (!refused(::open("/dev/null", O_RDWR))) return 10;
    if (!refused(::symlink("/etc/passwd", (store_ + "/link").c_str()))) return 11;
    Fd::open(store_ + "/mine", O_CREAT | O_RDWR);
    if (::rename((store_ + "/mine").c_str(), (folder_ + "/taken").c_str()) == 0) return 12;
    return kGood;
  });
}

TEST_F(SandboxTest, ASymbolicLinkInTheStoreLeadsNowhere) {
  if (!have_landlock()) GTEST_SKIP() << "this kernel has no Landlock";
  std::filesystem::create_symlink("/etc/passwd", store_ + "/link");
  expect_good([&] { return refused(::open((store_ + "/link").c_str(), O_RDONLY)) ? kGood : 1; });
}

TEST_F(SandboxTest, EndsWhoActsAsAnIntruder) {
  expect_killed([] {
    const char* argv[] = {"/bin/true", nullptr};
    ::execv(argv[0], const_cast<char**>(argv));
    return 1;
  });
  expect_killed([] { return ::socket(AF_UNIX, SOCK_STREAM, 0) >= 0 ? 1 : 2; });
  expect_killed([] { return ::socket(AF_INET, SOCK_STREAM, 0) >= 0 ? 1 : 2; });
  expect_killed([] { return ::ptrace(PTRACE_SEIZE, ::getppid(), nullptr, nullptr) == 0 ? 1 : 2; });
  expect_killed([] { return static_cast<int>(::syscall(SYS_pidfd_getfd, 0, 0, 0)); });
  expect_killed([] { return static_cast<int>(::syscall(SYS_bpf, 0, nullptr, 0)); });
  expect_killed([] { return static_cast<int>(::syscall(SYS_unshare, 0)); });
}

TEST_F(SandboxTest, RefusesTheRest) {
  expect_good([] {
    if (!refused(::fork())) return 1;
    if (!refused(::kill(::getppid(), 0))) return 2;
    if (!refused(::syscall(SYS_tgkill, ::getppid(), ::getppid(), 0))) return 3;
    void* code = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code != MAP_FAILED) return 4;
    void* data = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED || !refused(::mprotect(data, 4096, PROT_READ | PROT_EXEC))) return 5;
    int pending = 0;
    if (!refused(::ioctl(0, FIONREAD, &pending))) return 6;
    if (!refused(::setuid(0))) return 7;
    if (!refused(::chmod("/tmp", 0777))) return 8;
    return kGood;
  });
}

TEST_F(SandboxTest, TheStoreWorks) {
  const auto works = [&](const store::StoreOptions& options) {
    const std::string id = "6f1c2d3e-0000-4000-8000-000000000001";
    std::array<std::byte, kPageSize> page{};
    page.fill(std::byte{7});  // compresses, is hashed, and stored
    store::PageKey key;
    {
      const auto store = store::Store::open(store_, options);
      store::Writer writer = store->begin("");
      key = writer.put(PageNo{3}, page);
      writer.put_device_state(page);
      store::CheckpointInfo info;
      info.id = id;
      info.blocks = {{"pc.ram", 64 * kPageSize}};
      writer.commit(info);
    }
    const auto again = store::Store::open(store_, options);
    std::array<std::byte, kPageSize> back{};
    again->read(key, back);
    if (back != page || again->list().size() != 1 || !again->check({}).problems.empty()) return 1;
    again->remove_all();
    return again->list().empty() ? kGood : 2;
  };
  expect_good([&] { return works({}); });
  std::filesystem::remove_all(store_);
  std::filesystem::create_directories(store_);
  store::StoreOptions encrypted;
  encrypted.key.emplace(std::string(32, 'k'));
  expect_good([&] { return works(encrypted); });
}

TEST_F(SandboxTest, FilesOfTheStoreWork) {
  expect_good([&] {
    const std::string text = "contents";
    replace_file(store_ + "/file", std::as_bytes(std::span(text)));
    if (read_file(store_ + "/file", 100) != text) return 1;
    std::filesystem::create_directories(store_ + "/a/b");
    std::filesystem::rename(store_ + "/file", store_ + "/a/b/file");  // from one folder to another
    std::filesystem::resize_file(store_ + "/a/b/file", 3);
    const Fd file = Fd::open(store_ + "/a/b/file", O_RDWR);
    if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) return 2;
    struct flock lock {};
    lock.l_type = F_WRLCK;
    if (::fcntl(file.get(), F_SETLK, &lock) != 0) return 3;
    void* mapped = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (mapped == MAP_FAILED || ::ftruncate(file.get(), 4096) != 0) return 4;
    std::memset(mapped, 7, 4096);
    if (::msync(mapped, 4096, MS_SYNC) != 0 || ::fdatasync(file.get()) != 0) return 5;
    return std::filesystem::remove_all(store_ + "/a") == 3 ? kGood : 6;
  });
}

TEST_F(SandboxTest, ThreadsExceptionsAndMemoryFilesWork) {
  expect_good([] {
    int caught = 0;
    std::thread thread([&] {
      ::pthread_setname_np(::pthread_self(), "engine");
      try {
        throw Error(Code::kBusy, "thrown in a thread");
      } catch (const Error&) {
        caught = 1;
      }
    });
    thread.join();
    if (caught != 1) return 1;
    const Fd memory = Fd::memory("state");
    if (::ftruncate(memory.get(), 8192) != 0) return 2;
    // Opened once more with other rights: how QEMU is handed a write-only descriptor.
    const Fd writer = Fd::open("/proc/self/fd/" + std::to_string(memory.get()), O_WRONLY);
    const std::string text = "through the other descriptor";
    write_all(writer.get(), std::as_bytes(std::span(text)), "memory file");
    std::string back(text.size(), ' ');
    pread_all(memory.get(), std::as_writable_bytes(std::span(back)), 0, "memory file");
    return back == text ? kGood : 3;
  });
}

TEST_F(SandboxTest, HandedOverDescriptorsWork) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  const Fd mine = Fd::own(ends[0]);
  const Fd theirs = Fd::own(ends[1]);
  const Fd outside = Fd::open(folder_ + "/outside", O_RDWR);
  const std::array<int, 1> fds = {outside.get()};
  send_frame(mine.get(), "take this", fds);
  const Fd pagemap = Fd::open("/proc/self/pagemap", O_RDONLY);
  expect_good([&] {
    std::optional<Frame> frame = receive_frame(theirs.get());
    if (!frame || frame->fds.size() != 1) return 1;
    const std::string text = "written by a descriptor";
    pwrite_all(frame->fds[0].get(), std::as_bytes(std::span(text)), 0, "descriptor");
    send_frame(theirs.get(), "done", std::array{frame->fds[0].get()});
    guest::abi::PageRegion found{};
    guest::abi::ScanArg scan{};
    std::memset(&scan, 0, sizeof scan);
    // Wrong arguments reach the kernel (EINVAL), which a forbidden call would not (EPERM).
    if (::ioctl(pagemap.get(), guest::abi::kIoctlPagemapScan, &scan) == 0 || errno == EPERM) return 2;
    if (::ioctl(pagemap.get(), guest::abi::kIoctlApi, &found) == 0 || errno == EPERM) return 3;
    return kGood;
  });
  EXPECT_EQ(receive_frame(mine.get())->payload, "done");
  EXPECT_EQ(read_file(folder_ + "/outside", 100), "written by a descriptor");
}

TEST_F(SandboxTest, AMissingFolderIsAnError) {
  store_ += "/absent";
  const int status = run([] { return kGood; });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 99) << status;
}

TEST_F(SandboxTest, AbortStillAborts) {
  const int status = run([]() -> int { std::abort(); });
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) << status;
}

}  // namespace
}  // namespace mhv::worker
