#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <span>

#include "base/error.h"
#include "export/holder.h"
#include "export/unix_socket.h"

namespace mhv::disk {
namespace {

constexpr int kFirstPassed = 3;  // sd_listen_fds(3)

volatile std::sig_atomic_t stopped = 0;
volatile std::sig_atomic_t child_pid = 0;

// A kill loses nothing (disk/journal.h), while nbdkit would wait for its clients to go first.
void on_stop(int) {
  stopped = 1;
  if (child_pid > 0) ::kill(child_pid, SIGKILL);
}

[[noreturn]] void become(const std::vector<std::string>& command, int socket) {
  // The export does not outlive the one that would start it again.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // dup2() onto itself would leave it close-on-exec.
  if (::dup2(socket, kFirstPassed) < 0 || ::fcntl(kFirstPassed, F_SETFD, 0) != 0) ::_exit(127);
  ::setenv("LISTEN_FDS", "1", 1);
  ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  ::_exit(127);
}

int wait_for(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) throw_errno("cannot wait for the disk's export");
  }
  return status;
}

}  // namespace

int hold_export(const std::string& socket, const std::vector<std::string>& command, const std::string& pid_file) {
  const Fd listener = listen_at(socket);
  struct sigaction action {};
  action.sa_handler = on_stop;
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGINT, &action, nullptr);
  bool was_killed = false;
  while (stopped == 0) {
    const pid_t pid = ::fork();
    if (pid < 0) throw_errno("cannot start the disk's export");
    if (pid == 0) become(command, listener.get());
    child_pid = pid;
    if (stopped != 0) ::kill(pid, SIGKILL);
    if (!pid_file.empty()) {
      const std::string text = std::to_string(pid) + "\n";
      replace_file(pid_file, std::as_bytes(std::span(text)));
    }
    const int status = wait_for(pid);
    child_pid = 0;
    if (stopped != 0) break;
    if (WIFEXITED(status)) {
      if (!was_killed) return WEXITSTATUS(status);  // it never served anyone
      spdlog::error("the disk's export ended with status {}; it is tried again", WEXITSTATUS(status));
      ::sleep(1);
      continue;
    }
    was_killed = true;
    spdlog::warn("the disk's export was killed by signal {}; it is started again", WTERMSIG(status));
  }
  return 0;
}

}  // namespace mhv::disk
