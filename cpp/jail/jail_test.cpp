// The life of a layer's process: what it is, how it ends, what is left.
#include "jail/jail.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "testing_test.h"

namespace mhv::jail {
namespace {

using Jail = JailTest;
INSTANTIATE_TEST_SUITE_P(StartedBy, Jail, ::testing::Values("root", "nova-mhv"),
                         [](const auto& one) { return std::string(one.param) == "root" ? "Root" : "NovaMhv"; });

Fd watch(pid_t pid) { return Fd::own(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }

// The process behind a pidfd ends within the minute.
bool ends(const Fd& process) {
  pollfd end{process.get(), POLLIN, 0};
  return ::poll(&end, 1, 60'000) == 1;
}

struct Family {
  pid_t init = 0, layer = 0;
};

Family family(pid_t jail) {
  Family out;
  const auto inits = children(jail);
  if (inits.size() == 1) out.init = inits[0];
  const auto layers = children(out.init);
  if (layers.size() == 1) out.layer = layers[0];
  return out;
}

TEST_P(Jail, PassesOnHowTheLayerEnded) {
  EXPECT_EQ(run({"exit", "0"}).status, 0);
  EXPECT_EQ(run({"exit", "7"}).status, 7);
  EXPECT_EQ(run({"abort"}).status, 128 + SIGABRT);
}

TEST_P(Jail, IsAUserOfItsOwnWithoutPrivileges) {
  const auto jail = start({"wait"});
  ASSERT_TRUE(jail->wait_for("ready"));
  const Family family_of = family(jail->pid());
  const std::string id = std::to_string(uid_);
  for (const pid_t pid : {family_of.init, family_of.layer}) {
    ASSERT_GT(pid, 0);
    EXPECT_EQ(status_field(pid, "Uid"), id + "\t" + id + "\t" + id + "\t" + id);
    EXPECT_EQ(status_field(pid, "Gid"), id + "\t" + id + "\t" + id + "\t" + id);
    EXPECT_EQ(status_field(pid, "Groups").find_first_of("0123456789"), std::string::npos);
    for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}) EXPECT_EQ(status_field(pid, set), "0000000000000000") << set;
    EXPECT_EQ(status_field(pid, "NoNewPrivs"), "1");
    EXPECT_EQ(status_field(pid, "Seccomp"), "2");
    for (const char* space : {"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"}) {
      const auto of = [&](pid_t process) {
        return std::filesystem::read_symlink("/proc/" + std::to_string(process) + "/ns/" + space).string();
      };
      EXPECT_NE(of(pid), of(::getpid())) << space;
    }
    EXPECT_EQ(read_file("/proc/" + std::to_string(pid) + "/uid_map", 4096).find("      1000 " + id), 0u)
        << read_file("/proc/" + std::to_string(pid) + "/uid_map", 4096);
  }
}

TEST_P(Jail, SeesReadOnlyMountsAlone) {
  const auto jail = start({"wait"});
  ASSERT_TRUE(jail->wait_for("ready"));
  std::ifstream mounts("/proc/" + std::to_string(family(jail->pid()).layer) + "/mountinfo");
  std::set<std::string> places;
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream words(line);
    std::string word, place, options;
    words >> word >> word >> word >> word >> place >> options;
    places.insert(place);
    for (const char* option : {"ro", "nosuid", "nodev"})
      EXPECT_NE(("," + options + ",").find("," + std::string(option) + ","), std::string::npos) << line;
  }
  for (const char* place : {"/", "/usr", "/layer"}) EXPECT_TRUE(places.contains(place)) << place;
  for (const char* place : {"/proc", "/sys", "/dev", "/etc"}) EXPECT_FALSE(places.contains(place)) << place;
}

TEST_P(Jail, ImportsTheModulesThatItIsGivenAndCannotChangeThem) {
  const std::string modules = folder_.file("modules");
  std::filesystem::create_directories(modules);
  std::filesystem::permissions(modules, std::filesystem::perms(0777));
  std::ofstream(modules + "/ours.py") << "where = __file__\n";
  std::ofstream(package() + "/layer.py") << "#!/usr/bin/python3\n"
                                            "import ours\n"
                                            "print('from', ours.where, flush=True)\n"
                                            "open('/python/more', 'w')\n";
  std::filesystem::permissions(package() + "/layer.py", std::filesystem::perms(0755));
  set("--program", "layer.py");
  set("--memory-mib", "128");
  EXPECT_NE(run({}).output.find("No module named 'ours'"), std::string::npos);
  set("--python-path", modules);
  const Ended ended = run({});
  EXPECT_NE(ended.output.find("from /python/ours.py\n"), std::string::npos) << ended.output;
  EXPECT_NE(ended.output.find("Read-only file system: '/python/more'"), std::string::npos) << ended.output;
}

TEST_P(Jail, ReadsTheOperatorsDataAndCannotChangeIt) {
  const std::string data = folder_.file("data");
  std::filesystem::create_directories(data);
  std::filesystem::permissions(data, std::filesystem::perms(0777));
  std::ofstream(data + "/known") << "of the operator\n";
  std::ofstream(package() + "/layer.sh") << "#!/bin/sh\nread -r line </data/known\necho \"$line\"\necho >/data/more\n";
  std::filesystem::permissions(package() + "/layer.sh", std::filesystem::perms(0755));
  set("--program", "layer.sh");
  EXPECT_EQ(run({}).output.find("of the operator"), std::string::npos);
  set("--data", data);
  const Ended ended = run({});
  EXPECT_NE(ended.output.find("of the operator\n"), std::string::npos) << ended.output;
  EXPECT_NE(ended.output.find("cannot create /data/more: Read-only file system"), std::string::npos) << ended.output;
}

Fd text_for_reading(const std::string& text, unsigned mode) {
  const Fd writable = Fd::memory("guest");
  write_all(writable.get(), std::as_bytes(std::span(text)), "memory");
  if (::fchmod(writable.get(), mode) != 0) throw_errno("cannot restrict memory");
  return Fd::open("/proc/self/fd/" + std::to_string(writable.get()), O_RDONLY);
}

TEST_P(Jail, AMachineOpensItsDescriptorsAgainAndNoWider) {
  options_.push_back("--machine");
  set("--package", "");
  set("--program", "/usr/bin/dd");
  const Fd image = text_for_reading("an image", 0444), memory = text_for_reading("a guest's memory", 0704);
  const std::vector<int> fds = {image.get(), image.get(), image.get(), memory.get()};
  const Ended read = run({"if=/fd/6"}, fds);
  EXPECT_EQ(read.status, 0) << read.output;
  EXPECT_NE(read.output.find("a guest's memory"), std::string::npos) << read.output;
  for (const char* target : {"of=/fd/6", "of=/fd/4"}) {
    const Ended written = run({"if=/fd/5", target, "conv=notrunc", "count=0"}, fds);
    EXPECT_EQ(written.status, 1);
    EXPECT_NE(written.output.find("Permission denied"), std::string::npos) << written.output;
  }
  for (const char* other : {"if=/proc/self/fd/6", "if=/proc/1/fd/6", "if=/layer/manifest.json", "if=/etc/passwd"}) {
    EXPECT_NE(run({other}, fds).output.find("No such file"), std::string::npos) << other;
  }
}

TEST_P(Jail, AMachineGetsNoMemoryThatEverybodyMayWrite) {
  options_.push_back("--machine");
  set("--package", "");
  set("--program", "/usr/bin/dd");
  const Fd image = text_for_reading("an image", 0444), memory = text_for_reading("a guest's memory", 0777);
  const Ended ended = run({"if=/fd/6"}, {image.get(), image.get(), image.get(), memory.get()});
  EXPECT_EQ(ended.status, kNotRun);
  EXPECT_NE(ended.output.find("opened again for writing"), std::string::npos) << ended.output;
}

TEST_P(Jail, NothingIsLeftWhenItIsKilled) {
  const auto jail = start({"wait"});
  ASSERT_TRUE(jail->wait_for("ready"));
  const Family family_of = family(jail->pid());
  ASSERT_GT(family_of.layer, 0);
  const Fd init = watch(family_of.init), layer = watch(family_of.layer);
  jail->kill();
  EXPECT_TRUE(ends(layer));
  EXPECT_TRUE(ends(init));
}

TEST_P(Jail, EndsWithTheProcessThatStartedIt) {
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe2(pipe.data(), 0), 0);
  const Fd reports = Fd::own(pipe[0]);
  const pid_t parent = ::fork();
  if (parent == 0) {
    const auto jail = start({"wait"});
    pid_t numbers[2] = {0, 0};
    if (jail->wait_for("ready")) {
      numbers[0] = jail->pid();
      numbers[1] = family(jail->pid()).layer;
    }
    (void)!::write(pipe[1], numbers, sizeof numbers);
    for (;;) ::pause();
  }
  ::close(pipe[1]);
  pid_t numbers[2] = {0, 0};
  const ssize_t got = ::read(reports.get(), numbers, sizeof numbers);
  const Fd jail = watch(numbers[0]), layer = watch(numbers[1]);
  ::kill(parent, SIGKILL);
  ::waitpid(parent, nullptr, 0);
  ASSERT_EQ(got, static_cast<ssize_t>(sizeof numbers));
  ASSERT_GT(numbers[1], 0);
  EXPECT_TRUE(ends(layer));
  EXPECT_TRUE(ends(jail));
}

TEST_P(Jail, InitCannotBeKilledFromWithin) {
  const auto jail = start({"kill_init"});
  ASSERT_TRUE(jail->wait_for("ready"));
  EXPECT_GT(family(jail->pid()).layer, 0);
}

TEST_P(Jail, AFloodOfOutputIsCut) {
  const Ended ended = run({"flood"});
  EXPECT_EQ(ended.status, 0);
  EXPECT_LT(ended.output.size(), 1'000'000u);  // of 5 MB
  EXPECT_NE(ended.output.find("bytes too many were dropped"), std::string::npos);
}

TEST_P(Jail, APythonProgramRuns) {
  std::ofstream(package() + "/layer.py") << "#!/usr/bin/env python3\n"
                                            "import ctypes, json, mmap, os, struct, sys, threading\n"
                                            "thread = threading.Thread(target=lambda: None)\n"
                                            "thread.start(), thread.join()\n"
                                            "print('python', len(os.urandom(8)), sys.argv[1], flush=True)\n";
  std::filesystem::permissions(package() + "/layer.py", std::filesystem::perms(0755));
  set("--program", "layer.py");
  set("--memory-mib", "128");
  const Ended ended = run({"argument"});
  EXPECT_EQ(ended.status, 0);
  EXPECT_NE(ended.output.find("layer: python 8 argument\n"), std::string::npos) << ended.output;
}

TEST_P(Jail, SaysWhyALayerCannotRun) {
  set("--program", "absent");
  Ended ended = run({});
  EXPECT_EQ(ended.status, 126);
  EXPECT_NE(ended.output.find("cannot run absent: No such file"), std::string::npos) << ended.output;
  set("--package", folder_.file("none"));
  ended = run({});
  EXPECT_EQ(ended.status, kNotRun);
  EXPECT_NE(ended.output.find("cannot show " + folder_.file("none")), std::string::npos) << ended.output;
}

TEST_P(Jail, AUserIdOfSomebodyElseIsRefused) {
  if (std::string(GetParam()) == "root") GTEST_SKIP() << "root may give any user id";
  set("--uid", "1000");
  const Ended ended = run({"who"});
  EXPECT_EQ(ended.status, kNotRun);
  EXPECT_NE(ended.output.find("user id 1000 is not this user's to give"), std::string::npos) << ended.output;
}

TEST_P(Jail, StandsStillWhenItHasUsedItsShareAndGoesOn) {
  set("--cpu-percent", "1");
  const auto jail = start({"burn"});
  ASSERT_TRUE(jail->wait_for("ready"));
  const pid_t layer = family(jail->pid()).layer;
  for (const bool stands : {true, false, true}) {
    while ((status_field(layer, "State").front() == 'T') != stands) std::this_thread::yield();
  }
}

}  // namespace
}  // namespace mhv::jail
