// For the tests of this folder: a stock QEMU under its sandbox, and a real mhv-broker.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/process.h"
#include "broker/process.h"

namespace mhv::broker::testing {

inline constexpr uid_t kNobody = 65534;

// A child process that dies with the test.
class Child {
 public:
  Child(std::vector<std::string> arguments, uid_t uid, gid_t gid) {
    std::vector<char*> argv;
    for (std::string& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      const rlimit many{16384, 16384};
      ::setrlimit(RLIMIT_NOFILE, &many);
      ::setenv("ASAN_OPTIONS", "detect_leaks=0", 1);  // the leak check at the end makes calls that a hardened process may not
      if (uid != 0 && (::setgid(gid) != 0 || ::setuid(uid) != 0)) ::_exit(126);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() { end(SIGKILL); }
  pid_t pid() const { return pid_; }
  bool running() const { return pid_ > 0 && ::waitpid(pid_, nullptr, WNOHANG) == 0; }
  // The exit status, as waitpid gives it; -1 when it was ended before.
  int end(int signal) {
    int status = -1;
    if (pid_ > 0) {
      ::kill(pid_, signal);
      ::waitpid(pid_, &status, 0);
      pid_ = -1;
    }
    return status;
  }

 private:
  pid_t pid_ = -1;
};

class Folder {
 public:
  Folder() {
    std::string pattern = "/tmp/mhv-broker-test-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = pattern;
    ::chmod(path_.c_str(), 0755);
    std::filesystem::create_directory(path_ + "/qmp");
    ::chmod((path_ + "/qmp").c_str(), 0777);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline Fd try_connect(const std::string& path) {
  Fd fd = Fd::own(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) fd.close();
  return fd;
}

// Waits until somebody listens at `path`, or `child` has ended. A readiness poll: nothing is measured by it.
inline Fd connect_when_ready(const std::string& path, const Child& child) {
  for (int i = 0; i < 30'000 && child.running(); ++i) {
    if (Fd fd = try_connect(path)) return fd;
    ::usleep(1000);
  }
  throw std::runtime_error("nobody listens at " + path);
}

inline gid_t group_of(const char* path) {
  struct stat file {};
  return ::stat(path, &file) == 0 ? file.st_gid : kNobody;
}

// Whether a process of /dev/kvm's group can make a machine here. That a guest would run in it is not asked.
inline bool kvm_makes_machines() {
  struct stat file {};
  constexpr mode_t kBoth = S_IRGRP | S_IWGRP;
  const Fd device = Fd::own(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!device || ::fstat(device.get(), &file) != 0 || (file.st_mode & kBoth) != kBoth) return false;
  return static_cast<bool>(Fd::own(::ioctl(device.get(), KVM_CREATE_VM, 0)));
}

// A guest of 64 MiB shared memory that runs its firmware, as an unprivileged user, with two monitors: one of the test, and
// <folder>/qmp/own.sock for the broker.
class Qemu {
 public:
  explicit Qemu(const std::string& folder, bool shared = true, const std::string& accelerator = "tcg")
      : folder_(folder),
        child_({"/usr/bin/qemu-system-x86_64", "-accel", accelerator, "-machine", "pc,memory-backend=ram", "-object",
                std::string("memory-backend-memfd,id=ram,size=64M,share=") + (shared ? "on" : "off"), "-m", "64", "-nodefaults", "-display",
                "none", "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", "-qmp",
                "unix:" + folder + "/qmp/test.sock,server=on,wait=off", "-qmp", "unix:" + folder + "/qmp/own.sock,server=on,wait=off"},
               kNobody, accelerator == "kvm" ? group_of("/dev/kvm") : kNobody) {
    monitor_ = connect_when_ready(folder + "/qmp/test.sock", child_);
    read_until("QMP");
    command("{\"execute\":\"qmp_capabilities\"}");
    start_time_ = identify_process(pid())->start_time;
  }
  pid_t pid() const { return child_.pid(); }
  std::uint64_t start_time() const { return start_time_; }
  void kill() { child_.end(SIGKILL); }
  bool running() const { return child_.running(); }
  std::string own_monitor() const { return folder_ + "/qmp/own.sock"; }

  // One command; returns the line that answers it, "" when QEMU is gone.
  std::string command(const std::string& text, int fd = -1) {
    iovec part{const_cast<char*>(text.data()), text.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (fd >= 0) {
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      cmsghdr* c = CMSG_FIRSTHDR(&message);
      c->cmsg_level = SOL_SOCKET;
      c->cmsg_type = SCM_RIGHTS;
      c->cmsg_len = CMSG_LEN(sizeof(int));
      std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    if (::sendmsg(monitor_.get(), &message, MSG_NOSIGNAL) < 0) return {};
    return read_until("\"return\"");
  }
  // Hands `fd` over and returns its number inside QEMU.
  int add_fd(int fd) {
    const std::string reply = command("{\"execute\":\"add-fd\"}", fd);
    const std::size_t at = reply.find("\"fd\": ");
    return at == std::string::npos ? -1 : std::stoi(reply.substr(at + 6));
  }
  struct Mapping {
    std::uint64_t start = 0, end = 0;
  };
  // The first line of /proc/PID/maps that holds `text` and has the flags.
  Mapping mapping(const std::string& text, const std::string& flags) const {
    const std::string maps = read_file("/proc/" + std::to_string(pid()) + "/maps", 4 << 20);
    for (std::size_t at = 0; at < maps.size();) {
      const std::size_t stop = maps.find('\n', at);
      const std::string line = maps.substr(at, stop - at);
      if (line.find(text) != std::string::npos && line.find(flags) != std::string::npos) {
        std::size_t used = 0;
        const std::uint64_t start = std::stoull(line, &used, 16);
        return {start, std::stoull(line.substr(used + 1), nullptr, 16)};
      }
      at = stop + 1;
    }
    return {};
  }

 private:
  std::string read_until(const char* text) {
    std::string line;
    char c = 0;
    while (::read(monitor_.get(), &c, 1) == 1) {
      if (c != '\n') {
        line += c;
      } else if (line.find(text) != std::string::npos || line.find("\"error\"") != std::string::npos) {
        return line;
      } else {
        line.clear();
      }
    }
    return {};
  }

  const std::string folder_;
  Child child_;
  Fd monitor_;
  std::uint64_t start_time_ = 0;
};

// The program itself, as it is installed, serving uid nobody.
class Broker {
 public:
  explicit Broker(const std::string& folder)
      : path_(folder + "/broker.sock"), child_({MHV_BROKER_PROGRAM, "--run-dir", folder, "--user", "nobody"}, 0, 0) {
    connect_when_ready(path_, child_);
  }
  const std::string& socket() const { return path_; }
  int end(int signal) { return child_.end(signal); }
  bool running() const { return child_.running(); }
  pid_t pid() const { return child_.pid(); }

 private:
  const std::string path_;
  Child child_;
};

}  // namespace mhv::broker::testing
