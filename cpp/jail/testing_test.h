// For tests: runs the real mhv-jail around the hostile layer, as root and as the unprivileged user of mhvd.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/temp_folder_test.h"

namespace mhv::jail {

struct Ended {
  int status = 0;      // exit status
  std::string output;  // mhv-jail's log
};

// A mhv-jail under way. Killed with its object.
class Running {
 public:
  Running(pid_t pid, Fd log) : pid_(pid), log_(std::move(log)) {}
  ~Running();
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  pid_t pid() const { return pid_; }
  // Reads the log until `text` is in it. False: it ended before.
  bool wait_for(const std::string& text);
  Ended wait();
  void kill();

 private:
  pid_t pid_;
  Fd log_;
  std::string seen_;
};

// The parameter: who starts mhv-jail.
class JailTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override;

  using Words = std::vector<std::string>;
  // `layer`: the arguments of the hostile layer. `fds`: what becomes 3 and on.
  std::unique_ptr<Running> start(const Words& layer, const std::vector<int>& fds = {});
  Ended run(const Words& layer, const std::vector<int>& fds = {}) { return start(layer, fds)->wait(); }
  // What the layer said last: "EPERM", "reached"; "killed" when the system call filter ended it.
  std::string attempt(const Words& layer, const std::vector<int>& fds = {});

  std::string package() const { return folder_.file("package"); }
  // Options in the place of or besides those that every run has.
  void set(const std::string& option, const std::string& value);

  TempFolder folder_;
  Words options_;
  std::uint32_t uid_ = 0;
};

// Guest memory as a layer gets it: `bytes` long, open for reading.
Fd memory_for_reading(std::size_t bytes);

// The processes that `pid` started, by /proc.
std::vector<pid_t> children(pid_t pid);

// A field of /proc/PID/status.
std::string status_field(pid_t pid, const std::string& name);

}  // namespace mhv::jail
