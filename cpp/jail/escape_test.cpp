// What a hostile layer tries, and what it gets for it.
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "testing_test.h"

namespace mhv::jail {
namespace {

using Escape = JailTest;
INSTANTIATE_TEST_SUITE_P(StartedBy, Escape, ::testing::Values("root", "nova-mhv"),
                         [](const auto& one) { return std::string(one.param) == "root" ? "Root" : "NovaMhv"; });

std::string text(long number) { return std::to_string(number); }

TEST_P(Escape, OtherProcessesMemory) {
  const std::string other = text(::getpid());
  EXPECT_EQ(attempt({"peek", other}), "killed");
  EXPECT_EQ(attempt({"peek", "1"}), "killed");
  EXPECT_EQ(attempt({"ptrace", other}), "killed");
  EXPECT_EQ(attempt({"ptrace", "1"}), "killed");
  EXPECT_EQ(attempt({"pidfd_getfd", "0"}), "killed");
  EXPECT_EQ(attempt({"kcmp", "1"}), "killed");
  EXPECT_EQ(attempt({"pidfd_open", "1"}), "EPERM");
  for (const char* path : {"/proc/self/mem", "/proc/1/mem", "/proc/kcore", "/dev/mem", "/dev/kvm", "/dev/userfaultfd", "/dev/null"}) {
    EXPECT_EQ(attempt({"read", path}), "ENOENT") << path;
  }
}

TEST_P(Escape, Files) {
  std::ofstream(folder_.file("secret")) << "secret";
  std::filesystem::create_symlink("/etc/passwd", package() + "/link");
  std::filesystem::create_symlink("../secret", package() + "/beside");
  for (const std::string& path : {std::string("/etc/passwd"), std::string("/etc/shadow"), std::string("/sys/kernel"), std::string("/run"),
                                  std::string("/tmp"), std::string("/var/lib"), std::string("/root"), folder_.file("secret"),
                                  std::string("/layer/../secret"), std::string("/layer/link"), std::string("/layer/beside")}) {
    EXPECT_EQ(attempt({"read", path}), "ENOENT") << path;
  }
  EXPECT_EQ(attempt({"read", "/layer/escapes"}), "reached");
  EXPECT_EQ(attempt({"by_handle"}), "killed");
  const std::string root = attempt({"list", "/"});
  EXPECT_EQ(root.find("etc"), std::string::npos) << root;
  EXPECT_NE(root.find("layer"), std::string::npos) << root;
}

TEST_P(Escape, Writing) {
  // Where only the mount stands in the way.
  std::filesystem::create_directory(package() + "/open");
  std::filesystem::permissions(package() + "/open", std::filesystem::perms(0777));
  EXPECT_EQ(attempt({"create", "/layer/open/new"}), "EROFS");
  for (const char* path : {"/new", "/layer/new", "/usr/new", "/usr/bin/new"}) {
    const std::string got = attempt({"create", path});
    EXPECT_TRUE(got == "EROFS" || got == "EACCES") << path << ": " << got;
  }
  for (const char* path : {"/layer/escapes", "/usr/bin/env"}) {
    const std::string got = attempt({"write", path});
    EXPECT_TRUE(got == "EROFS" || got == "EACCES") << path << ": " << got;
  }
  for (const char* folder : {"/", "/layer", "/usr"}) {
    const std::string got = attempt({"temporary", folder});
    EXPECT_TRUE(got == "EROFS" || got == "EACCES") << folder << ": " << got;
  }
  for (const char* way : {"mkdir", "unlink", "symlink", "chmod", "truncate_path"}) {
    EXPECT_EQ(attempt({way, "/layer/escapes"}), "EPERM") << way;
  }
  EXPECT_FALSE(std::filesystem::exists(package() + "/new"));
}

TEST_P(Escape, Network) {
  for (const int domain : {AF_INET, AF_INET6, AF_UNIX, AF_NETLINK, AF_VSOCK, AF_PACKET, AF_ALG}) {
    EXPECT_EQ(attempt({"socket", text(domain)}), "EPERM") << domain;
  }
  EXPECT_EQ(attempt({"socketpair"}), "EPERM");
}

TEST_P(Escape, Signals) {
  EXPECT_EQ(attempt({"kill", text(::getpid())}), "ESRCH");
  EXPECT_EQ(attempt({"kill", text(::getppid())}), "ESRCH");
  EXPECT_EQ(attempt({"set_owner", text(::getpid())}), "EPERM");
  // Its own process group, of which nobody outside is a member: it hits itself.
  EXPECT_EQ(run({"kill", "0"}).status, 128 + SIGTERM);
}

TEST_P(Escape, MemoryThatIsForReading) {
  const Fd channel = Fd::memory("channel"), wake = Fd::own(::eventfd(0, EFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(channel.get(), 4096), 0);
  const Fd memory = memory_for_reading(1 << 20);
  const std::vector<int> fds = {channel.get(), wake.get(), wake.get(), memory.get()};
  EXPECT_EQ(attempt({"map_read", "6"}, fds), "reached");
  EXPECT_EQ(attempt({"map_written", "3"}, fds), "reached");  // its ring
  EXPECT_EQ(attempt({"map_written", "6"}, fds), "EACCES");
  EXPECT_EQ(attempt({"make_writable", "6"}, fds), "EACCES");
  EXPECT_EQ(attempt({"punch", "6"}, fds), "EACCES");
  EXPECT_EQ(attempt({"reopen", "6"}, fds), "ENOENT");
  EXPECT_EQ(attempt({"pwrite", "6"}, fds), "EBADF");
  for (const char* way : {"truncate", "allocate", "seal"}) EXPECT_EQ(attempt({way, "6"}, fds), "EPERM") << way;
  for (const char* way : {"truncate", "allocate", "seal"}) EXPECT_EQ(attempt({way, "3"}, fds), "EPERM") << way;
  struct stat status {};
  ASSERT_EQ(::fstat(memory.get(), &status), 0);
  EXPECT_EQ(status.st_size, 1 << 20);
}

TEST_P(Escape, MemoryThatCouldBeWrittenIsRefusedBeforehand) {
  const Fd writable = Fd::memory("guest"), wake = Fd::own(::eventfd(0, EFD_CLOEXEC));
  const Ended ended = run({"who"}, {wake.get(), wake.get(), wake.get(), writable.get()});
  EXPECT_EQ(ended.status, 125);
  EXPECT_NE(ended.output.find("descriptor 6 is not memory that is open for reading alone"), std::string::npos) << ended.output;
}

TEST_P(Escape, Namespaces) {
  for (const char* way : {"mount", "open_tree", "pivot_root", "chroot", "setns"}) EXPECT_EQ(attempt({way}), "killed") << way;
  for (const int flag : {0, CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWPID}) {
    EXPECT_EQ(attempt({"unshare", text(flag)}), "killed");
    EXPECT_EQ(attempt({"clone", text(flag)}), "EPERM");
    EXPECT_EQ(attempt({"clone", text(flag | CLONE_VM | CLONE_VFORK)}), "EPERM");
  }
  EXPECT_EQ(attempt({"clone", text(CLONE_THREAD | CLONE_SIGHAND | CLONE_VM | CLONE_NEWUSER)}), "EPERM");
  EXPECT_EQ(attempt({"clone3"}), "ENOSYS");
}

TEST_P(Escape, ASetuidProgramGainsNothing) {
  const std::string copy = package() + "/setuid";
  std::filesystem::copy_file(package() + "/escapes", copy);
  ASSERT_EQ(::chmod(copy.c_str(), 06755), 0);
  const std::string got = attempt({"exec", "/layer/setuid", "who"});
  EXPECT_EQ(got.find("uid 1000 euid 1000 gid 1000 groups 0 pid 2 parent 1"), 0u) << got;
  EXPECT_EQ(attempt({"setuid"}), "EPERM");
  EXPECT_EQ(attempt({"capset"}), "EPERM");
}

TEST_P(Escape, ProcessesAndThreads) {
  EXPECT_EQ(attempt({"fork"}), "EPERM");
  EXPECT_EQ(attempt({"vfork"}), "EPERM");
  EXPECT_EQ(attempt({"threads"}), "7 threads, then EAGAIN");  // of 8 with the first
}

TEST_P(Escape, MoreMemory) {
  for (const char* way : {"balloon", "brk"}) {
    const std::string got = attempt({way});
    const long mib = std::strtol(got.c_str(), nullptr, 10);
    EXPECT_TRUE(mib > 48 && mib <= 64) << way << ": " << got;
    EXPECT_NE(got.find("MiB, then ENOMEM"), std::string::npos) << way << ": " << got;
  }
  EXPECT_EQ(attempt({"shared_balloon"}), "0 MiB, then EPERM");
  for (const char* way : {"memfd", "memfd_secret", "shmget", "mlock", "raise_limit"}) EXPECT_EQ(attempt({way}), "EPERM") << way;
}

TEST_P(Escape, TheKernelsOtherDoors) {
  for (const char* way : {"userfaultfd", "bpf", "perf", "add_key", "keyctl", "request_key"}) EXPECT_EQ(attempt({way}), "killed") << way;
  for (const char* way : {"io_uring", "terminal", "priority", "realtime", "set_time", "host_name", "kernel_log"}) {
    EXPECT_EQ(attempt({way}), "EPERM") << way;
  }
#if defined(__x86_64__)
  EXPECT_EQ(attempt({"int80"}), "killed");
  EXPECT_EQ(attempt({"x32"}), "killed");
#endif
}

TEST_P(Escape, NoCoreIsDumped) {
  EXPECT_EQ(attempt({"limit_core"}), "1 of 1 reached");
  EXPECT_EQ(run({"abort"}).status, 128 + SIGABRT);
}

TEST_P(Escape, NoDescriptorIsLeftOver) {
  const Fd wake = Fd::own(::eventfd(0, 0)), leaked = Fd::own(::eventfd(0, 0));  // neither is closed by exec
  EXPECT_EQ(attempt({"descriptors"}), "0 1 2 reached");
  EXPECT_EQ(attempt({"descriptors"}, {wake.get(), wake.get()}), "0 1 2 3 4 reached");
}

}  // namespace
}  // namespace mhv::jail
