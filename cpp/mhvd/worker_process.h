// One mhv-worker: started, spoken to over its control socket (descriptor 3 there), and noticed when it ends.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "mhv.pb.h"

namespace mhv::mhvd {

// Starts `program` with one end of a socket pair as its descriptor 3 and nothing else of ours but standard error.
struct Spawned {
  pid_t pid = -1;
  Fd socket;  // our end
};
Spawned spawn_worker(const std::string& program);

// Thread-safe. Handlers run on a thread of its own; the destructor waits for it and for the process.
class WorkerProcess {
 public:
  struct Handlers {
    std::function<void(const protocol::WorkerReport&, std::vector<Fd>)> on_report;
    std::function<void()> on_end;  // last: no report comes after it
  };

  WorkerProcess(const std::string& program, Handlers handlers);
  // Closes the socket, upon which the worker finishes what it does and exits. One that has not after 30 s is killed:
  // whatever it was doing, its store and its guest survive that.
  ~WorkerProcess();

  // Throws kUnavailable when the worker has ended, after on_end: why it did is known by then.
  void send(const protocol::WorkerCommand& command, std::span<const int> fds = {});
  void close();  // begins the end
  pid_t pid() const { return pid_; }

 private:
  void read_reports();
  void reap();

  Handlers handlers_;
  pid_t pid_ = -1;
  Fd socket_;
  std::mutex send_mutex_;            // one writer at a time
  std::atomic<bool> ended_ = false;  // on_end has returned
  std::thread reader_;
};

}  // namespace mhv::mhvd
