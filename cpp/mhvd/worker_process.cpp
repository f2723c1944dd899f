#include "mhvd/worker_process.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "base/error.h"
#include "base/frame.h"

namespace mhv::mhvd {
namespace {

constexpr int kExitTimeoutMs = 30'000;

}  // namespace

WorkerProcess::WorkerProcess(const std::string& program, Handlers handlers) : handlers_(std::move(handlers)) {
  Spawned spawned = spawn_worker(program);
  pid_ = spawned.pid;
  socket_ = std::move(spawned.socket);
  reader_ = std::thread([this] { read_reports(); });
}

WorkerProcess::~WorkerProcess() {
  close();
  reader_.join();
}

void WorkerProcess::close() { ::shutdown(socket_.get(), SHUT_RDWR); }

void WorkerProcess::send(const protocol::WorkerCommand& command, std::span<const int> fds) {
  const std::lock_guard lock(send_mutex_);
  try {
    send_frame(socket_.get(), command.SerializeAsString(), fds);
  } catch (const Error& error) {
    if (error.code() == Code::kUnavailable) ended_.wait(false);
    throw;
  }
}

void WorkerProcess::read_reports() {
  try {
    while (auto frame = receive_frame(socket_.get())) {
      protocol::WorkerReport report;
      if (!report.ParseFromString(frame->payload)) throw Error(Code::kInvalid, "a report that cannot be read");
      handlers_.on_report(report, std::move(frame->fds));
    }
  } catch (const Error& error) {
    spdlog::warn("worker {}: {}", pid_, error.what());
  }
  close();
  handlers_.on_end();
  ended_ = true;
  ended_.notify_all();
  reap();
}

void WorkerProcess::reap() {
  const Fd pidfd = Fd::own(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
  pollfd entry{pidfd.get(), POLLIN, 0};
  if (pidfd && ::poll(&entry, 1, kExitTimeoutMs) == 0) {
    spdlog::error("worker {} does not end; killing it", pid_);
    ::kill(pid_, SIGKILL);
  }
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status)) spdlog::warn("worker {} was ended by signal {}", pid_, WTERMSIG(status));
  if (WIFEXITED(status) && WEXITSTATUS(status) != 0) spdlog::warn("worker {} exited with status {}", pid_, WEXITSTATUS(status));
}

}  // namespace mhv::mhvd
