// fork and exec of a worker: between them, only async-signal-safe calls.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <csignal>

#include "base/error.h"
#include "mhvd/worker_process.h"

namespace mhv::mhvd {
namespace {

constexpr int kControlFd = 3;

[[noreturn]] void become(const char* program, int socket) {
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::setpgid(0, 0);  // a Ctrl-C on mhvd's terminal is mhvd's
  if (socket == kControlFd) {
    ::fcntl(socket, F_SETFD, 0);
  } else {
    ::dup2(socket, kControlFd);
  }
  ::execl(program, "mhv-worker", static_cast<const char*>(nullptr));
  ::_exit(127);
}

}  // namespace

Spawned spawn_worker(const std::string& program) {
  if (::access(program.c_str(), X_OK) != 0) throw_errno("cannot run the worker " + program);
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) throw_errno("cannot make a socket pair");
  Spawned out{-1, Fd::own(ends[0])};
  const Fd theirs = Fd::own(ends[1]);
  const char* path = program.c_str();
  out.pid = ::fork();
  if (out.pid < 0) throw_errno("cannot start a worker");
  if (out.pid == 0) become(path, theirs.get());
  return out;
}

}  // namespace mhv::mhvd
