// mhv-worker: started by mhvd, one for each guest. Descriptor 3 is the socket to mhvd; the first frame is WorkerStart.
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cstring>
#include <iostream>

#include "checkpoint/service.h"
#include "engine/control.h"
#include "worker/sandbox.h"
#include "worker/worker.h"

namespace {

constexpr int kControlFd = 3;

int run() {
  mhv::engine::Control control(mhv::Fd::own(kControlFd));
  std::optional<mhv::engine::Command> first = control.receive();
  if (!first) return 0;
  if (!first->message.has_start() || first->fds.size() != 1)
    throw mhv::Error(mhv::Code::kInvalid, "the first command is not a start with one descriptor");
  const mhv::protocol::WorkerStart& start = first->message.start();
  std::optional<mhv::worker::Worker> worker;
  try {
    mhv::worker::enter_sandbox(start.store_path());
    worker.emplace(control, start);
    worker->add(std::make_unique<mhv::checkpoint::CheckpointService>(*worker, start, first->fds[0]));
    mhv::keys::wipe(*first->message.mutable_start()->mutable_store_key());
  } catch (const mhv::Error& error) {
    control.fail(0, error);  // about no request: why this worker ends
    throw;
  }
  worker->serve();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) {
    std::cout << "mhv-worker is started by mhvd, with its socket as descriptor 3; it takes no arguments.\n";
    return std::strcmp(argv[1], "--help") == 0 ? 0 : 2;
  }
  spdlog::set_default_logger(spdlog::stderr_logger_mt("mhv-worker"));
  spdlog::flush_on(spdlog::level::info);
  try {
    return run();
  } catch (const std::exception& error) {
    spdlog::error("{}", error.what());
    return 1;
  }
}
