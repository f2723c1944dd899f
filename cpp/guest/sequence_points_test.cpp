// The program's own ioctl() and pread() stand before those of the C library.
#include "guest/sequence_points_test.h"

#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <utility>

namespace mhv::guest::testing {
namespace {

thread_local SequencePoints::Point point;

template <typename Result, typename Call>
Result pass(const Call& call) {
  if (!point) return static_cast<Result>(call());
  SequencePoints::Point asked = std::exchange(point, nullptr);
  const SequencePoints::Fate fate = asked();
  const auto result = fate.error == 0 || fate.late ? static_cast<Result>(call()) : -1;
  const int error = fate.error == 0 ? errno : fate.error;
  point = std::move(asked);
  errno = error;
  return fate.error == 0 ? result : -1;
}

}  // namespace

SequencePoints::SequencePoints(Point asked) { point = std::move(asked); }
SequencePoints::~SequencePoints() { point = nullptr; }

}  // namespace mhv::guest::testing

extern "C" int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list arguments;
  va_start(arguments, request);
  void* const argument = va_arg(arguments, void*);
  va_end(arguments);
  return mhv::guest::testing::pass<int>([&] { return ::syscall(SYS_ioctl, fd, request, argument); });
}

extern "C" ssize_t pread(int fd, void* to, std::size_t bytes, off_t offset) {
  return mhv::guest::testing::pass<ssize_t>([&] { return ::syscall(SYS_pread64, fd, to, bytes, offset); });
}
