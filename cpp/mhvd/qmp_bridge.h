// QMP for a guest without a monitor of its own: one end of a socket pair behaves as QEMU's monitor (capabilities
// negotiated), the other end's lines go to QEMU through whoever `Monitor` is (libvirt).
//
//   worker --- {"execute":..., "id":...}\n + descriptors --->  bridge  ---> Monitor::execute
//          <-- {"return":..., "id":...}\n, {"event":...}\n --
#pragma once

#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"

namespace mhv::mhvd {

// One command in, QEMU's whole answer (an object with "return" or "error") out. Throws Error when there is no answer.
class Monitor {
 public:
  virtual ~Monitor() = default;
  virtual std::string execute(const std::string& command, std::span<const int> fds) = 0;
};

// The answer to `line`: QEMU's with the id of the command, or an error object for what is not QMP. Throws what the monitor
// throws: whether QEMU carried the command out is then unknown, and no answer may say that it did not.
std::string answer_line(Monitor& monitor, const std::string& line, std::span<const int> fds);

// Serves until the peer closes, the monitor throws or the bridge is destroyed; the destructor waits for a command under way.
class QmpBridge {
 public:
  explicit QmpBridge(std::unique_ptr<Monitor> monitor);
  ~QmpBridge();

  Fd take_worker_end() { return std::move(worker_end_); }
  // Thread-safe, does not block: an event object as JSON text.
  void post_event(std::string event);
  bool ended() const { return ended_; }

 private:
  void serve();
  bool read_input();
  void send(std::string line);

  std::unique_ptr<Monitor> monitor_;
  Fd worker_end_;
  Fd end_;
  Fd wake_;
  std::string input_;
  std::vector<Fd> input_fds_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> ended_{false};
  std::mutex mutex_;  // guards events_
  std::vector<std::string> events_;
  std::thread thread_;
};

}  // namespace mhv::mhvd
