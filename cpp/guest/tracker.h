// Which pages of a running QEMU were written: userfaultfd write protection in asynchronous mode, and PAGEMAP_SCAN.
//
// INVARIANT: a page that was written, punched or replaced since collect() last returned it is returned by the next
// collect(). A page that is neither present nor protected by a marker counts as written: reclaim and hole
// punching of shared memory leave exactly that behind.
#pragma once

#include <vector>

#include "base/fd.h"
#include "guest/ram.h"

namespace mhv::guest {

class Tracker {
 public:
  // `uffd` belongs to QEMU's mm; `pagemap` is its /proc/PID/pagemap. `fresh`: do the API handshake and register every
  // block; otherwise only check what a former engine set up (throws kUnsupported when features are missing).
  // two_step: scan without protection first, then protect only the written ranges (KVM drops its second-level
  // mappings of whatever range a protecting scan is given).
  Tracker(Fd uffd, Fd pagemap, const Ram& ram, bool fresh, bool two_step);
  ~Tracker();

  // Protects again and returns every page written since the last call, ascending, merged. Guest running or stopped.
  std::vector<PageRange> collect();
  // Counts without protecting (progress, adaptive decisions).
  std::uint64_t pending() const;
  // Protects everything, forgetting what was written: what follows is relative to now. O(RAM).
  void reset();
  // Unregisters, so that QEMU runs as if never attached.
  void detach();

 private:
  Fd uffd_;
  Fd pagemap_;
  const Ram& ram_;
  bool two_step_;
};

}  // namespace mhv::guest
