// Which pages of a running QEMU were written: userfaultfd write protection in asynchronous mode, and PAGEMAP_SCAN.
//
// INVARIANT: a page that was written, punched or replaced since collect() last returned it is returned by the next
// collect(). What page tables say of a page, and what follows:
//
//   written    its page table is there, and the entry has no wp bit: written, or       -> returned, and protected
//              thrown away (an empty entry of a table that is there counts as written)
//   protected  present or swapped, with the wp bit                                     as collect() left it
//   missing    no page table, or (shared memory) a marker: never touched, reclaimed,   -> returned when it was not missing
//              or PUNCHED; a punched page of shared memory keeps its protection           at the last collect()
//
// Memory that was never touched gets no page tables and no markers: a scan costs what was touched, not what the guest
// could touch.
//
// LIMIT: a page of shared memory that is punched and then only read (never written) between two collect() calls looks
// protected, and so does one that was punched while nothing mapped it. Both need a guest that gave the page back through
// its balloon, and so gave up its content.
#pragma once

#include <optional>
#include <vector>

#include "base/fd.h"
#include "guest/ram.h"

namespace mhv::guest {

// One thread at a time. `ram` must outlive it. The descriptors are closed with it, and nothing is unregistered: QEMU
// holds a copy of the userfaultfd, so that another engine can go on.
class Tracker {
 public:
  // `uffd` belongs to QEMU's mm; `pagemap` is its /proc/PID/pagemap. `fresh`: do the API handshake and register every
  // block; otherwise only check what a former engine set up (throws kUnsupported when features are missing).
  // two_step: scan without protection first, then protect only the written ranges (KVM drops its second-level
  // mappings of whatever range a protecting scan is given).
  Tracker(Fd uffd, Fd pagemap, const Ram& ram, bool fresh, bool two_step);
  ~Tracker();

  // Protects again and returns every page written since the last call, ascending, merged. Guest running or stopped.
  // Ranges do not cross blocks. After it threw, the next call returns every page. kGone when QEMU ended.
  std::vector<PageRange> collect();
  // Counts without protecting (progress, adaptive decisions).
  std::uint64_t pending() const;
  // Forgets what was written: what follows is relative to now.
  void reset();
  // Unregisters, so that QEMU runs as if never attached.
  void detach();

 private:
  std::vector<PageRange> written(const RamBlock& block, HostVirt start, std::uint64_t bytes, bool protect) const;
  std::vector<PageRange> written_by_spans(const RamBlock& block) const;
  std::vector<PageRange> missing(const RamBlock& block) const;
  std::vector<PageRange> collect_block(std::size_t index);
  void check_alive() const;

  Fd uffd_;
  Fd pagemap_;
  const Ram& ram_;
  bool two_step_;
  bool unsure_;  // nothing is protected yet, or a collect() failed half-way
  // By block: what was missing at the last look, ascending; nullopt: this engine has not looked yet.
  std::vector<std::optional<std::vector<PageRange>>> missing_;
};

}  // namespace mhv::guest
