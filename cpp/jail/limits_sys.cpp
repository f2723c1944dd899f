#include "jail/limits_sys.h"

#include <sys/resource.h>

#include <algorithm>

#include "base/error.h"

namespace mhv::jail {
namespace {

// Address space that is no memory: programs, libraries, what allocators set aside.
constexpr std::uint64_t kReserveBytes = 1ull << 30;
constexpr std::uint64_t kStackBytes = 8ull << 20;
constexpr std::uint64_t kFilesMax = 256;

void limit(__rlimit_resource which, std::uint64_t value) {
  const rlimit both{value, value};
  if (::setrlimit(which, &both) != 0) throw_errno("cannot limit the layer's resources");
}

}  // namespace

void set_limits(const Options& options, std::uint64_t mapped_bytes) {
  const std::uint64_t memory = std::uint64_t{options.memory_mib} << 20;
  limit(RLIMIT_DATA, memory);  // all that is written to and not shared
  limit(RLIMIT_AS, memory + mapped_bytes + kReserveBytes);
  limit(RLIMIT_STACK, std::min(kStackBytes, memory));
  limit(RLIMIT_NPROC, options.pids + 1);  // and the init process
  limit(RLIMIT_NOFILE, kFilesMax);
  limit(RLIMIT_FSIZE, 0);
  limit(RLIMIT_CORE, 1);  // 0 would still start a core_pattern that is a program: the kernel takes 1 for "none at all"
  limit(RLIMIT_MEMLOCK, 0);
  limit(RLIMIT_MSGQUEUE, 0);
  limit(RLIMIT_SIGPENDING, 64);
  limit(RLIMIT_NICE, 0);
  limit(RLIMIT_RTPRIO, 0);
}

}  // namespace mhv::jail
