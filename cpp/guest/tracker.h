// Which pages of a running QEMU were written: userfaultfd write protection in asynchronous mode, and PAGEMAP_SCAN.
//
// INVARIANT: a page that was written, punched or replaced since collect() last returned it is returned by the next
// collect(); one that was written, by the next collect_written() too. What page tables say of a page, and what follows:
//
//   written    there is an entry for it, without a wp bit                              -> returned, and protected
//   protected  present or swapped, with the wp bit                                     as collect() left it
//   unmapped   no entry, or (shared memory) only a marker: never touched, or PUNCHED;  -> returned when it was mapped at
//              a punched page of shared memory keeps its protection                       the last collect(), or returned
//                                                                                         as written since
//
// Memory that was never touched gets no page tables and no markers: a scan costs what was touched, not what the guest
// could touch. A guest writes to the same regions for a while: a scan of those alone, and a look at all the others when
// the guest runs again, take the pause no longer on a guest with more memory. On a host that swaps, a page of shared memory may be written
// and lose its entry between two looks, and an unmapped page proves nothing: there, "written" includes all that has no wp bit, with or
// without an entry, and every page gets a marker (8 bytes).
//
// LIMIT: a page of shared memory that is punched and then only read (never written) between two collect() calls looks
// protected, and so does one that QEMU did not map when it was punched. Both need a guest that gave the page back through
// its balloon, and whoever uses this has to look at everything then. So does one that had no entry at the last collect(), and got one
// and was punched before any look: it is as if it had never been touched. And swap must not be turned on and off again between two
// calls.
#pragma once

#include <optional>
#include <vector>

#include "base/fd.h"
#include "guest/ram.h"
#include "guest/tracker_sys.h"

namespace mhv::guest {

// One thread at a time. `ram` must outlive it. The descriptors are closed with it, and nothing is unregistered: QEMU
// holds a copy of the userfaultfd, so that another engine can go on.
class Tracker {
 public:
  // `uffd` belongs to QEMU's mm; `pagemap` is its /proc/PID/pagemap. `fresh`: the first collect() returns every page;
  // otherwise what was written since a former engine's last one. Registers what is not registered with `uffd`.
  // Throws kUnsupported when the kernel lacks a feature, kBusy when another userfaultfd has the memory.
  // two_step: scan without protection first, then protect only the written ranges (KVM drops its second-level
  // mappings of whatever range a protecting scan is given). host_swaps: whether memory may lose its entries now.
  Tracker(Fd uffd, Fd pagemap, const Ram& ram, bool fresh, bool two_step, bool (*host_swaps)() = &sys::host_swaps);
  ~Tracker();

  // Protects again and returns every page written since the last call, ascending, merged. Guest running or stopped.
  // Ranges do not cross blocks. After it threw, the next call returns every page. kGone when QEMU ended.
  std::vector<PageRange> collect();
  // The guest has no device that gives memory back, so no page is ever punched: collect() does not look for that any more,
  // which takes eight times as long as all the rest where all of the memory was touched.
  void pages_stay() { pages_stay_ = true; }
  // These pages (normalized) had content since the last collect(): one that has none at the next one was punched, and is returned.
  void were_mapped(const std::vector<PageRange>& pages);
  // Without what was only punched, which waits for the next collect(): a third of the time, for use inside a pause.
  std::vector<PageRange> collect_written();
  // The same, of the regions in which collect() found anything lately. It is all there was if nothing_elsewhere() says so
  // afterwards; otherwise that is still there for the next collect_written().
  std::vector<PageRange> collect_written_lately();
  // Whether no page of any other region was written since the last collect() or collect_written().
  bool nothing_elsewhere();
  // Forgets what was written: what follows is relative to now.
  void reset();
  // Unregisters, so that QEMU runs as if never attached.
  void detach();

 private:
  // The regions of a block that were written lately, or the others; merged where they touch.
  std::vector<PageRange> regions(std::size_t index, bool lately) const;
  void note(std::size_t index, const std::vector<PageRange>& written);
  sys::Select select_written(const RamBlock& block) const;
  std::vector<PageRange> scan(const RamBlock& block, PageRange within, sys::Select select, bool protect) const;
  std::vector<PageRange> written(const RamBlock& block, PageRange within) const;
  std::vector<PageRange> mapped(const RamBlock& block, PageRange within) const;
  std::vector<PageRange> unmapped_since(std::size_t index);
  std::vector<PageRange> collect(bool unmapped_too, bool lately);
  void check_alive() const;

  Fd uffd_;
  Fd pagemap_;
  const Ram& ram_;
  bool two_step_;
  bool (*host_swaps_)();
  bool pages_stay_ = false;
  bool unsure_;  // nothing is protected yet, or a collect() failed half-way
  // By block: what was mapped at the last look, or returned as written since, in any order; nullopt: this engine has not looked yet.
  std::vector<std::optional<std::vector<PageRange>>> mapped_;
  // By block and region: the value of collects_ when anything was last found there.
  std::vector<std::vector<std::uint64_t>> found_;
  std::uint64_t collects_;
};

}  // namespace mhv::guest
