#include "stack/layer_process.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "base/error.h"

namespace mhv::stack {

LayerProcess::LayerProcess(const std::string& program, const std::vector<std::string>& arguments, std::span<const Fd> fds)
    : pid_(spawn_with(program, arguments, fds)), pidfd_(Fd::own(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)))) {
  if (pidfd_) return;
  const int error = errno;
  ::kill(pid_, SIGKILL);
  reap();
  throw_errno("cannot watch a layer's process", error);
}

LayerProcess::~LayerProcess() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  reap();
}

std::string LayerProcess::reap() {
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  if (WIFSIGNALED(status)) return fmt::format("its process was ended by signal {}", WTERMSIG(status));
  const int code = WEXITSTATUS(status);
  return code > 128 ? fmt::format("its process was ended by signal {}", code - 128)
                    : fmt::format("its process exited with status {}", code);
}

}  // namespace mhv::stack
