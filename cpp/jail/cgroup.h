// A cgroup (v2) of the layer's own beneath one that the caller was delegated.
#pragma once

#include <sys/types.h>

#include <string>

#include "jail/options.h"

namespace mhv::jail {

// Gone with its object, and what runs in it with it. One that a killed predecessor left is taken over.
class Cgroup {
 public:
  // Makes FOLDER/layer-UID and sets what its controllers can limit; logs a line that names what cannot be. Nothing without a folder.
  explicit Cgroup(const Options& options);
  ~Cgroup();
  Cgroup(const Cgroup&) = delete;
  Cgroup& operator=(const Cgroup&) = delete;

  void add(pid_t process);

 private:
  void limit(const std::string& file, const std::string& value);

  std::string folder_;  // empty: there is none
  std::string without_;
};

}  // namespace mhv::jail
