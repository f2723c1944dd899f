// For tests: the kinds of memory that a Tracker meets, and a userfaultfd.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>

#include <string>

#include "base/fd.h"
#include "guest/uffd_abi.h"

namespace mhv::guest::testing {

inline Fd new_uffd() {
  const int device = ::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device < 0) return {};
  const Fd owner = Fd::own(device);
  return Fd::own(::ioctl(device, abi::kIoctlNewUffd, O_CLOEXEC | O_NONBLOCK));
}

enum class Kind { kPrivate, kShared };
struct Mode {
  Kind kind;
  bool two_step;
  bool host_swaps;
  bool shared() const { return kind == Kind::kShared; }
  bool (*host_swaps_function() const)() {
    return host_swaps ? +[] { return true; } : +[] { return false; };
  }
};

inline auto all_modes() {
  return ::testing::Values(Mode{Kind::kPrivate, false, false}, Mode{Kind::kPrivate, true, false}, Mode{Kind::kShared, false, false},
                           Mode{Kind::kShared, true, false}, Mode{Kind::kShared, false, true}, Mode{Kind::kShared, true, true});
}

inline std::string name_of(const ::testing::TestParamInfo<Mode>& mode) {
  return std::string(mode.param.shared() ? "shared" : "anonymous") + (mode.param.two_step ? "_two_step" : "") +
         (mode.param.host_swaps ? "_swap" : "");
}

}  // namespace mhv::guest::testing
