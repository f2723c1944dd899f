// One process of a layer: mhv-jail, which puts the layer into its sandbox and ends with it; or, where its own vendor runs it, the layer.
#pragma once

#include <sys/types.h>

#include <span>
#include <string>
#include <vector>

#include "base/fd.h"

namespace mhv::stack {

// Starts `program` with these descriptors as 3, 4, ... and nothing else of ours but standard error. Throws.
pid_t spawn_with(const std::string& program, const std::vector<std::string>& arguments, std::span<const Fd> fds);

// Not thread-safe.
class LayerProcess {
 public:
  LayerProcess(const std::string& program, const std::vector<std::string>& arguments, std::span<const Fd> fds);
  ~LayerProcess();  // kills it, with all that it started
  LayerProcess(const LayerProcess&) = delete;
  LayerProcess& operator=(const LayerProcess&) = delete;

  int pidfd() const { return pidfd_.get(); }  // readable when it has ended
  // How it ended, once that is readable.
  std::string reap();
  static constexpr const char* kWell = "its process exited with status 0";

 private:
  pid_t pid_;
  Fd pidfd_;
};

}  // namespace mhv::stack
