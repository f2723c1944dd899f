#include "checkpoint/filler.h"

#include <spdlog/spdlog.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <utility>

#include "checkpoint/fault_order.h"

namespace mhv::checkpoint {
namespace {

// Pages filled between two looks at who waits: so many times 5 us are added to a fault's time.
constexpr std::uint32_t kFillRunPages = 16;
constexpr int kRetryMs = 1000;
const std::vector<std::byte> kZeros(kPageSize);

Fd new_event() {
  Fd event = Fd::own(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event) throw_errno("cannot make an eventfd");
  return event;
}

}  // namespace

Filler::Filler(guest::MissingPages memory, const store::Store& store, std::string id, store::PageTable target, std::string order_path,
               std::function<void()> on_change)
    : memory_(std::move(memory)),
      store_(store),
      id_(std::move(id)),
      order_path_(std::move(order_path)),
      on_change_(std::move(on_change)),
      target_(std::move(target)),
      todo_(memory_.ram().pages()),
      buffer_(kFillRunPages * kPageSize),
      wake_(new_event()) {
  if (target_.size() < memory_.ram().pages()) throw Error(Code::kInvalid, "checkpoint " + id_ + " has another number of pages");
}

Filler::~Filler() { stop_thread(); }

void Filler::stop_thread() {
  stopping_ = true;
  ::eventfd_write(wake_.get(), 1);
  if (thread_.joinable()) thread_.join();
}

std::vector<PageRange> Filler::begin() {
  memory_.arm();
  return start();
}

std::vector<PageRange> Filler::take_over() {
  memory_.arm();  // the former one may not have come so far
  std::vector<PageRange> there = start();
  memory_.wake_all();
  return there;
}

// Nothing appears between the look and the thread's start: an access to what is missing waits already.
std::vector<PageRange> Filler::start() {
  std::vector<PageRange> there = memory_.present();
  guest::PageSet present(memory_.ram().pages());
  present.add(there);
  for (std::uint32_t i = 0; i < memory_.ram().pages(); ++i) {
    if (!target_[i].is_zero_page() && !present.contains(PageNo{i})) todo_.add(PageNo{i});
  }
  total_ = todo_.count();
  left_ = total_;
  order_ = load_fault_order(order_path_);
  if (order_.size() == kFaultOrderMax) order_.clear();  // learnt anew, so that it does not keep what was needed long ago
  ordered_before_ = order_.size();
  thread_ = std::thread([this] { run(); });
  return there;
}

void Filler::prefetch() {
  prefetching_ = true;
  ::eventfd_write(wake_.get(), 1);
}

void Filler::run() {
  bool told = false, failed = false;
  auto retry_at = std::chrono::steady_clock::now();
  while (!stopping_) {
    try {
      if (std::exchange(failed, false)) memory_.wake_all();  // faults that were read and not served come again
      if (left_ == 0 && !std::exchange(told, true)) tell();
      if (!stuck_.empty() && std::chrono::steady_clock::now() >= retry_at) {
        retry_at = std::chrono::steady_clock::now() + std::chrono::milliseconds(kRetryMs);
        retry_stuck();
      }
      const bool busy = step();
      if (stuck_.empty()) set_problem("");
      if (busy) continue;
      memory_.wait(wake_.get(), stuck_.empty() ? -1 : kRetryMs);
      eventfd_t count = 0;
      ::eventfd_read(wake_.get(), &count);
    } catch (const Error& error) {
      if (error.code() == Code::kGone) {
        const std::lock_guard lock(mutex_);
        gone_ = true;
        changed_.notify_all();
        return;
      }
      failed = true;
      set_problem(error.what());
      memory_.wait(wake_.get(), kRetryMs);
    }
  }
}

void Filler::tell() {
  {
    const std::lock_guard lock(mutex_);  // wait() is before its look, or in its sleep
  }
  changed_.notify_all();
  on_change_();
}

// False: nobody waits, and there is nothing to prefetch.
bool Filler::step() {
  const std::vector<PageNo> faults = memory_.faults();
  for (const PageNo page : faults) serve(page);
  return !faults.empty() || (prefetching_ && fill_next());
}

void Filler::serve(PageNo page) {
  if (todo_.contains(page)) {
    if (order_.size() < kFaultOrderMax) order_.push_back(page);
    fill_run(page, 1);
    near_ = {PageNo{page.value + 1}, kFillRunPages};
    return;
  }
  if (std::find(stuck_.begin(), stuck_.end(), page) != stuck_.end()) return;  // goes on waiting
  memory_.fill(page, kZeros, target_[page.value].is_zero_page());
}

bool Filler::fill_next() {
  const std::optional<PageNo> page = next_page();
  if (page) fill_run(*page, kFillRunPages);
  return page.has_value();
}

std::optional<PageNo> Filler::next_page() {
  const auto wanted = [&](PageNo page) { return page.value < memory_.ram().pages() && todo_.contains(page); };
  while (near_.count > 0) {
    const PageNo page = near_.first;
    near_ = {PageNo{page.value + 1}, near_.count - 1};
    if (wanted(page)) return page;
  }
  while (next_ordered_ < ordered_before_) {
    const PageNo page = order_[next_ordered_++];
    if (wanted(page)) return page;
  }
  for (; cursor_ < memory_.ram().pages(); ++cursor_) {
    if (todo_.contains(PageNo{cursor_})) return PageNo{cursor_};
  }
  return std::nullopt;
}

// `first` and what follows it, as far as it is to be filled, lies in the same block and can be read.
void Filler::fill_run(PageNo first, std::uint32_t longest) {
  const guest::RamBlock& block = memory_.ram().block_of(first);
  const std::uint64_t block_end = block.first.value + block.bytes / kPageSize;
  const auto end = static_cast<std::uint32_t>(std::min<std::uint64_t>(block_end, std::uint64_t{first.value} + longest));
  std::uint32_t count = 0;
  for (; first.value + count < end && todo_.contains(PageNo{first.value + count}); ++count) {
    const PageNo page{first.value + count};
    try {
      store_.read(target_[page.value], std::span(buffer_).subspan(std::size_t{count} * kPageSize).first<kPageSize>());
    } catch (const Error& error) {
      stuck_.push_back(page);
      todo_.remove(page);
      set_problem(error.what());
      break;
    }
  }
  for (std::uint32_t done = 0; done < count;) {
    const PageNo page{first.value + done};
    const std::uint32_t filled = std::max(
        1u, memory_.fill(page, std::span(buffer_).subspan(std::size_t{done} * kPageSize, std::size_t{count - done} * kPageSize), true));
    for (std::uint32_t i = 0; i < filled; ++i) todo_.remove(PageNo{page.value + i});
    left_ -= filled;
    done += filled;
  }
}

void Filler::retry_stuck() {
  std::vector<PageNo> again;
  again.swap(stuck_);
  for (const PageNo page : again) todo_.add(page);
  for (const PageNo page : again) fill_run(page, 1);
}

void Filler::set_problem(const std::string& problem) {
  {
    const std::lock_guard lock(mutex_);
    if (problem_ == problem) return;
    problem_ = problem;
  }
  if (!problem.empty()) spdlog::error("filling memory from checkpoint {}: {}", id_, problem);
  tell();
}

std::string Filler::problem() const {
  const std::lock_guard lock(mutex_);
  return problem_;
}

void Filler::wait(const StageFn& progress, std::chrono::milliseconds timeout) const {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  std::unique_lock lock(mutex_);
  while (!filled()) {
    if (gone_) throw Error(Code::kGone, "the guest's QEMU has ended");
    if (!problem_.empty()) {
      throw Error(Code::kCorrupt, "memory cannot be filled from checkpoint " + id_ + ": " + problem_,
                  "see: mhvctl checkpoint verify; the guest can be shut off and restored to another checkpoint");
    }
    if (std::chrono::steady_clock::now() >= deadline)
      throw Error(Code::kUnavailable, "memory is still being filled from checkpoint " + id_, "try again later");
    changed_.wait_for(lock, std::chrono::milliseconds(100));
    progress("filling memory", total_ - left_, total_);
  }
}

std::vector<PageRange> Filler::with_content() const {
  std::vector<PageRange> out;
  for (std::uint32_t i = 0; i < memory_.ram().pages(); ++i) {
    if (target_[i].is_zero_page()) continue;
    if (!out.empty() && out.back().first.value + out.back().count == i) {
      ++out.back().count;
    } else {
      out.push_back({PageNo{i}, 1});
    }
  }
  return out;
}

void Filler::end() {
  memory_.disarm_private();
  memory_.disarm_shared();
  stop_thread();
  if (order_.size() > ordered_before_) save_fault_order(order_path_, order_);
}

}  // namespace mhv::checkpoint
