// What must be known about a guest's epoch when the worker dies: one page of memory shared with a file in the run folder.
//
// INVARIANT: at every instruction, whatever a new worker concludes from this page is true:
//   stopped      the engine stopped a guest that ran: it must be resumed
//   restoring    RAM or disks may be between two checkpoints: the restore must be done again, whole, before it runs
//   base valid   pages that the kernel does not report as written equal checkpoint `base`
//   filling      memory is being filled on demand from that checkpoint: accesses to pages that are not there wait, or are about
//                to, and somebody has to fill them (filler.h) before anything is asked of QEMU. A page that is not there counts
//                as equal to that checkpoint. Not filling: no access waits
// So a claim is withdrawn before the action that could make it false, and made after the action that makes it true.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

#include "base/fd.h"

namespace mhv::checkpoint {

// One thread at a time; current() from any. Survives the process (the mapping is MAP_SHARED on tmpfs), not the host.
class RunState {
 public:
  enum class Phase : std::uint32_t { kRunning = 0, kStopped = 1, kRestoring = 2 };

  // `file` is at least 4096 bytes long; its content is taken over when it is of this version, else cleared.
  explicit RunState(const Fd& file);
  ~RunState();
  RunState(const RunState&) = delete;
  RunState& operator=(const RunState&) = delete;

  // Forgets everything when it was about another QEMU process.
  void bind(std::int32_t qemu_pid, std::uint64_t qemu_start_time);

  Phase phase() const;
  std::string base() const;     // "": unknown
  std::string current() const;  // checkpoint the guest runs on top of, "": none
  std::string target() const;   // of a restore under way
  bool runs_after_restore() const;
  std::string filling() const;  // the checkpoint, "": none

  void set_phase(Phase phase);
  // `runs`: the guest ran before, or whoever asked wants it to run at the checkpoint.
  void begin_restore(const std::string& id, bool runs);
  // Before the first access may wait, and after the last one did.
  void begin_fill(const std::string& id);
  void end_fill();
  void forget_base();
  // Also makes it the current one.
  void set_base(const std::string& id);

 private:
  struct Page;
  Page* page_;
  mutable std::mutex current_mutex_;  // an id is longer than what is written at once
};

}  // namespace mhv::checkpoint
