// Fills a guest's memory from a checkpoint while the guest runs: what it waits for first, then what it is likely to need, then
// the rest.
//
// INVARIANT: a page that is missing in QEMU and has content in the checkpoint is in `todo_`, and leaves it when that content is
// there. Nobody but this object makes pages appear between begin() and end(), so a page is never there with anything else:
//
//   in todo_      missing, content in the store    an access waits, and gets that content
//   not in todo_  there                            an access goes on
//                 zeros in the checkpoint          missing for ever: an access gets zeros. No memory is spent on the others
//                 given back by the guest since    missing again: an access gets zeros, and the page counts as written
//
// So the memory must not be read, by whatever reads RAM without going through QEMU's own page faults (a checkpoint, a compare, an
// in-place restore), before end(): holes are not content. What reads through QEMU (a migration) faults as a vCPU does.
//
// A death: the run state says which checkpoint is being filled (RunState::filling()). The next engine makes a Filler of it again,
// and calls take_over() before it asks QEMU's monitor anything, for QEMU's main thread may be what waits. There, a page that
// the guest gave back before the death is filled once more with its old content, which the guest may not rely on anyhow.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "checkpoint/checkpointer.h"
#include "guest/missing.h"
#include "guest/page_set.h"
#include "store/store.h"

namespace mhv::checkpoint {

// One thread of its own fills. begin(), take_over(), prefetch(), end() and the destructor come from one other thread; the rest
// from any.
class Filler {
 public:
  // `store` outlives it. `target`: the checkpoint's, as the store resolves it; what lies behind
  // memory's pages is not filled. `order_path`: fault_order.h. `on_change` is called by the
  // filling thread when all is filled, and when a page cannot be read (problem() says why); it must not call back.
  Filler(guest::MissingPages memory, const store::Store& store, std::string id, store::PageTable target, std::string order_path,
         std::function<void()> on_change);
  // Accesses that wait go on waiting, for the next Filler.
  ~Filler();
  Filler(const Filler&) = delete;
  Filler& operator=(const Filler&) = delete;

  const std::string& checkpoint() const { return id_; }
  const store::PageTable& target() const { return target_; }
  // The guest must not run; the run state must name this checkpoint. From here on accesses are served. Returns the pages that
  // are there already: they are not filled.
  std::vector<PageRange> begin();
  // The same where a former Filler had begun.
  std::vector<PageRange> take_over();
  bool running() const { return thread_.joinable(); }
  // What is there now. Only exact until prefetch(), and while the guest does not run.
  std::vector<PageRange> present() const { return memory_.present(); }
  // From here on also fills what nobody waits for.
  void prefetch();

  bool filled() const { return left_ == 0; }
  std::uint32_t left() const { return left_; }    // pages
  std::uint32_t pages() const { return total_; }  // that begin() or take_over() found missing
  // What keeps it from going on, "" when nothing does. It tries again by itself.
  std::string problem() const;
  // Until filled(). Throws kCorrupt when a page cannot be read, kGone, and kUnavailable after `timeout`.
  void wait(const StageFn& progress, std::chrono::milliseconds timeout) const;

  // Pages that have content in the checkpoint, normalized.
  std::vector<PageRange> with_content() const;
  bool end_needs_stop() const { return memory_.has_shared(); }
  // filled() must be true. With end_needs_stop(), the guest must not run. Afterwards memory is ordinary, tracked memory.
  void end();

 private:
  std::vector<PageRange> start();
  void run();
  bool step();
  void serve(PageNo page);
  bool fill_next();
  std::optional<PageNo> next_page();
  void fill_run(PageNo first, std::uint32_t longest);
  void retry_stuck();
  void tell();
  void set_problem(const std::string& problem);
  void stop_thread();

  guest::MissingPages memory_;
  const store::Store& store_;
  const std::string id_;
  const std::string order_path_;
  const std::function<void()> on_change_;
  const store::PageTable target_;

  // Of the filling thread, once it runs:
  guest::PageSet todo_;
  std::vector<PageNo> order_;  // what a former restore needed, and what this one needs beyond that
  std::size_t next_ordered_ = 0;
  std::size_t ordered_before_ = 0;
  PageRange near_{};           // behind the latest fault
  std::uint32_t cursor_ = 0;   // everything before it is filled, or stuck
  std::vector<PageNo> stuck_;  // could not be read
  std::vector<std::byte> buffer_;

  std::uint32_t total_ = 0;
  std::atomic<std::uint32_t> left_ = 0;
  std::atomic<bool> prefetching_ = false;
  std::atomic<bool> stopping_ = false;
  Fd wake_;
  mutable std::mutex mutex_;  // guards what follows
  mutable std::condition_variable changed_;
  std::string problem_;
  bool gone_ = false;

  std::thread thread_;
};

}  // namespace mhv::checkpoint
