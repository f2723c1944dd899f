#include "checkpoint/run_state.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "base/error.h"
#include "base/units.h"

namespace mhv::checkpoint {
namespace {

constexpr std::uint64_t kMagic = 0x31545352'56484d00;  // "\0MHVRST1"
constexpr std::size_t kIdBytes = 64;

std::string text(const char (&field)[kIdBytes]) { return {field, ::strnlen(field, kIdBytes)}; }

void put(char (&field)[kIdBytes], const std::string& id) {
  if (id.size() >= kIdBytes) throw Error(Code::kInvalid, "checkpoint id is too long");
  std::memset(field, 0, kIdBytes);
  std::memcpy(field, id.data(), id.size());
}

}  // namespace

struct RunState::Page {
  std::atomic<std::uint64_t> magic;
  std::uint64_t qemu_start_time;
  std::int32_t qemu_pid;
  std::atomic<std::uint32_t> phase;
  std::atomic<std::uint32_t> base_valid;
  std::uint32_t runs_after_restore;
  char base[kIdBytes];  // the current checkpoint, too
  char target[kIdBytes];
  std::atomic<std::uint32_t> filling;
  char fill[kIdBytes];
};
static_assert(std::atomic<std::uint32_t>::is_always_lock_free && std::atomic<std::uint64_t>::is_always_lock_free);

RunState::RunState(const Fd& file) {
  static_assert(sizeof(Page) <= kPageSize);
  struct stat about {};
  if (::fstat(file.get(), &about) != 0) throw_errno("cannot look at the run-state file");
  if (about.st_size < static_cast<off_t>(kPageSize) && ::ftruncate(file.get(), kPageSize) != 0)
    throw_errno("cannot size the run-state file");
  void* at = ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (at == MAP_FAILED) throw_errno("cannot map the run-state file");
  page_ = static_cast<Page*>(at);
  if (page_->magic != kMagic) {
    std::memset(at, 0, kPageSize);
    page_->magic = kMagic;
  }
}

RunState::~RunState() { ::munmap(page_, kPageSize); }

void RunState::bind(std::int32_t qemu_pid, std::uint64_t qemu_start_time) {
  if (page_->qemu_pid == qemu_pid && page_->qemu_start_time == qemu_start_time) return;
  const std::lock_guard lock(current_mutex_);
  page_->magic = 0;  // a death in here leaves a page that counts as empty
  std::memset(static_cast<void*>(page_), 0, sizeof *page_);
  page_->qemu_pid = qemu_pid;
  page_->qemu_start_time = qemu_start_time;
  page_->magic = kMagic;
}

RunState::Phase RunState::phase() const {
  const std::uint32_t value = page_->phase;
  return value <= static_cast<std::uint32_t>(Phase::kRestoring) ? static_cast<Phase>(value) : Phase::kRunning;
}
std::string RunState::base() const { return page_->base_valid == 1 ? text(page_->base) : std::string(); }
std::string RunState::current() const {
  const std::lock_guard lock(current_mutex_);
  return text(page_->base);
}
std::string RunState::target() const { return text(page_->target); }
bool RunState::runs_after_restore() const { return page_->runs_after_restore == 1; }
std::string RunState::filling() const { return page_->filling == 1 ? text(page_->fill) : std::string(); }

void RunState::set_phase(Phase phase) { page_->phase = static_cast<std::uint32_t>(phase); }

void RunState::begin_restore(const std::string& id, bool runs) {
  put(page_->target, id);
  page_->runs_after_restore = runs ? 1 : 0;
  std::atomic_thread_fence(std::memory_order_seq_cst);
  page_->phase = static_cast<std::uint32_t>(Phase::kRestoring);
}

void RunState::begin_fill(const std::string& id) {
  put(page_->fill, id);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  page_->filling = 1;
}

void RunState::end_fill() { page_->filling = 0; }

void RunState::forget_base() { page_->base_valid = 0; }

void RunState::set_base(const std::string& id) {
  const std::lock_guard lock(current_mutex_);
  page_->base_valid = 0;
  std::atomic_thread_fence(std::memory_order_seq_cst);
  put(page_->base, id);
  page_->base_valid = 1;
}

}  // namespace mhv::checkpoint
