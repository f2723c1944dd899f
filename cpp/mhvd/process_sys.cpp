#include "mhvd/process_sys.h"

#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <pwd.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include "base/error.h"

namespace mhv::mhvd {
namespace {

namespace fs = std::filesystem;

sigset_t ending_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

void make_folder(const std::string& path, fs::perms mode, const passwd* owner) {
  std::error_code error;
  if (fs::create_directories(path, error)) fs::permissions(path, mode);
  if (error)
    throw Error(Code::kPermission, "cannot make the folder " + path + ": " + error.message(), "name others with --run-dir and --state-dir");
  if (owner != nullptr && ::chown(path.c_str(), owner->pw_uid, owner->pw_gid) != 0)
    throw_errno("cannot hand " + path + " to " + owner->pw_name);
}

// Also what a former mhvd, run by another user, left in them.
void hand_over(const std::string& folder, const passwd& owner) {
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (::lchown(entry.path().c_str(), owner.pw_uid, owner.pw_gid) != 0)
      throw_errno("cannot hand " + entry.path().string() + " to " + owner.pw_name);
  }
}

}  // namespace

void settle_in(const Config& config) {
  const passwd* user = nullptr;
  if (::geteuid() == 0 && config.user != "root") {
    user = ::getpwnam(config.user.c_str());
    if (user == nullptr) spdlog::warn("there is no user {}: staying root; systemd-sysusers makes it", config.user);
  }
  ::umask(0027);
  make_folder(config.run_dir, fs::perms(0755), user);
  make_folder(config.run_dir + "/guests", fs::perms(0750), user);
  make_folder(config.state_dir, fs::perms(0750), user);
  make_folder(config.guests_dir(), fs::perms(0750), user);
  if (user == nullptr) return;
  hand_over(config.run_dir + "/guests", *user);
  hand_over(config.state_dir, *user);
  if (::initgroups(user->pw_name, user->pw_gid) != 0 || ::setgid(user->pw_gid) != 0 || ::setuid(user->pw_uid) != 0) {
    throw_errno(std::string("cannot become ") + user->pw_name);
  }
  // Changing the user made /proc/self root's; the self-test reads this process's own pagemap.
  ::prctl(PR_SET_DUMPABLE, 1);
}

Fd take_instance_lock(const std::string& path) {
  Fd fd = Fd::open(path, O_RDWR | O_CREAT);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK)
      throw Error(Code::kBusy, "another mhvd serves " + fs::path(path).parent_path().string(), "stop it, or use another --run-dir");
    throw_errno("cannot lock " + path);
  }
  return fd;
}

void block_signals() {
  const sigset_t set = ending_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

int wait_for_signal() {
  const sigset_t set = ending_signals();
  int signal = 0;
  while (::sigwait(&set, &signal) != 0) {
  }
  return signal;
}

}  // namespace mhv::mhvd
