#include "base/background.h"

#include <sched.h>
#include <spdlog/spdlog.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

namespace mhv {
namespace {

// A tenth of a processor that others want; and whoever wakes up there need not wait for the end of a slice.
constexpr std::int32_t kNice = 10;
constexpr std::uint64_t kSliceNs = 100'000'000;

// As linux/sched/types.h has it, which cannot be included beside sched.h.
struct SchedAttr {
  std::uint32_t size = sizeof(SchedAttr);
  std::uint32_t policy = SCHED_BATCH;
  std::uint64_t flags = 0;
  std::int32_t nice = kNice;
  std::uint32_t priority = 0;
  std::uint64_t runtime = kSliceNs;  // of SCHED_BATCH: the slice, from Linux 6.12 on
  std::uint64_t deadline = 0;
  std::uint64_t period = 0;
};
static_assert(sizeof(SchedAttr) == 48);

}  // namespace

Background::Background() : thread_([this] { serve(); }) {}

Background::~Background() {
  wanted_.release();
  thread_.join();
}

void Background::run(std::function<void()> work) {
  work_ = std::move(work);
  wanted_.release();
  done_.acquire();
  work_ = nullptr;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Background::serve() {
  const SchedAttr attr;
  if (::syscall(SYS_sched_setattr, 0, &attr, 0) != 0) spdlog::warn("background work keeps its priority: {}", std::strerror(errno));
  for (;;) {
    wanted_.acquire();
    if (!work_) return;
    try {
      work_();
    } catch (...) {
      error_ = std::current_exception();
    }
    done_.release();
  }
}

}  // namespace mhv
