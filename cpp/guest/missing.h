// Pages of a running QEMU that are not there yet. Whoever in QEMU (a vCPU, a device, the kernel for it) uses one of them waits
// until it is filled: userfaultfd in MISSING mode, on the descriptor that also tracks written pages.
//
// INVARIANT: from arm() to disarm(), no access to a page that was missing ends before fill() has put a whole page there. That
// does not depend on this process: QEMU holds a copy of the descriptor, so when the engine dies, accesses go on waiting, and
// whoever takes over wakes them all and they fault anew (wake_all()).
//
//   missing   private memory: no page table entry, or only a marker.  Shared memory: a hole of the file   -> an access waits
//   there     anything else, swapped out too                                                              -> an access goes on
//
// HAZARD: the engine itself must not read a missing page. /proc/PID/mem answers with an error, and a hole of the file with
// zeros that are not the guest's.
//
// LIMIT: a page that the guest gives back (balloon) between arm() and disarm() is missing again.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "base/fd.h"
#include "guest/ram.h"

namespace mhv::guest {

// Thread-safe, but for arm() and disarm(), which want one caller. Nothing is undone when it is destroyed.
class MissingPages {
 public:
  // `uffd` is set up by a Tracker (this process's or a former one's), `pagemap` is QEMU's; all are this object's own.
  MissingPages(Fd uffd, Fd pagemap, Ram ram) : uffd_(std::move(uffd)), pagemap_(std::move(pagemap)), ram_(std::move(ram)) {}

  const Ram& ram() const { return ram_; }
  // What is there, ascending, merged (across blocks, too); of private memory also what was there once and was given back. Only exact while
  // nobody fills and the guest does not run. kGone when QEMU ended.
  std::vector<PageRange> present() const;
  // The guest must not run. Room that was set aside without content (fallocate) becomes missing, too.
  void arm();
  // Before the guest may be told to stop for the rest: memory that needs no stop. What is there of it counts as written.
  void disarm_private();
  // The guest must not run. Its written bits stay as they are where the kernel can do that; else all counts as written.
  void disarm_shared();
  bool has_shared() const;

  // Puts whole pages where none are, as far as that goes; returns how many, 0: the first page is there. The range may not
  // cross a block. `clean`: the content is that of the checkpoint that tracking is relative to.
  std::uint32_t fill(PageNo first, std::span<const std::byte> content, bool clean);
  // Pages that are waited for, each at least once. Does not wait.
  std::vector<PageNo> faults();
  // Until faults() has some, or `wake_fd` is readable, or the time is over.
  void wait(int wake_fd, int timeout_ms) const;
  // Everyone who waits faults again. For faults() that a former engine read and did not fill.
  void wake_all();

 private:
  Fd uffd_;
  Fd pagemap_;
  Ram ram_;
};

}  // namespace mhv::guest
