// Which pages of a running QEMU were written: userfaultfd write protection in asynchronous mode, and PAGEMAP_SCAN.
//
// INVARIANT: a page that was written, punched or replaced since collect() last returned it is returned by the next
// collect(). What page tables say of a page, and what follows:
//
//   written    present     (no wp bit)                 somebody wrote it                             -> returned
//   none       neither present, swapped nor a marker   thrown away (MADV_DONTNEED of private memory),
//                                                      or never protected                            -> returned
//   protected  present or swapped, with the wp bit     as collect() left it
//   marker     shared memory, shows as swapped         never touched, reclaimed, or PUNCHED: a punched page keeps its
//                                                      protection. Returned when it was mapped at the last collect().
//
// LIMIT: a page of shared memory that is punched and then only read (never written) between two collect() calls looks
// protected, and so does one that was punched while nothing mapped it. Both need a guest that gave the page back through
// its balloon, and so gave up its content.
#pragma once

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
  // Protects everything, forgetting what was written: what follows is relative to now. O(RAM).
  void reset();
  // Unregisters, so that QEMU runs as if never attached.
  void detach();

 private:
  struct View;
  View look(const RamBlock& block, bool protect) const;
  void protect_written(const RamBlock& block, View& view) const;
  std::vector<PageRange> collect_block(std::size_t index);
  void check_alive() const;

  Fd uffd_;
  Fd pagemap_;
  const Ram& ram_;
  bool two_step_;
  bool unsure_ = false;  // a collect() failed half-way
  // For each shared block, the pages that were not mapped at the last look, ascending.
  std::vector<std::vector<PageRange>> unmapped_;
};

}  // namespace mhv::guest
