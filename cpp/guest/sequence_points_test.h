// For tests: what happens between the system calls of one operation, and what fails there.
#pragma once

#include <functional>

namespace mhv::guest::testing {

// While one lives, every ioctl() and pread() of this program asks it first, but for those that it makes itself.
// One at a time, in one thread.
class SequencePoints {
 public:
  struct Fate {
    int error = 0;      // 0: the call is made. Otherwise it fails with this errno,
    bool late = false;  // after it was made
  };
  using Point = std::function<Fate()>;

  explicit SequencePoints(Point point);
  ~SequencePoints();
  SequencePoints(const SequencePoints&) = delete;
  SequencePoints& operator=(const SequencePoints&) = delete;
};

}  // namespace mhv::guest::testing
