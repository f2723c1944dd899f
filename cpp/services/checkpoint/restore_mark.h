// Says durably that a restore is putting disks back. The run state says so too, but ends with QEMU and the host; disks between two
// moments stay, and any start of the guest would run on them.
//
// INVARIANT: from before the first write to a disk until all of them are put back and the guest was told to run, a mark with that
// checkpoint is on the disk. So a mark that another QEMU left means: the restore has to be done again.
// LIMIT: a guest that ran without the engine after its QEMU died in a restore has a mark that is older than what it wrote. It is
// restored all the same when the engine comes within kRedoWithin of that QEMU's start; later, its mark is dropped.
//
//   file `restoring` beside the store, 512 bytes:   nova-mhv restoring 1 CHECKPOINT QEMU-PID QEMU-START-TIME, a line's end, and zeros;
//                                                   zeros alone when nothing is under way
//   It is written in place, within one sector, and is there from the first attach on: a restore needs no space on a full disk.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "base/process.h"

namespace mhv::checkpoint {

struct Restoring {
  std::string checkpoint;
  ProcessId qemu;
};

// What stands before the zeros; nullopt: nothing. Throws kCorrupt on anything else. Pure.
std::optional<Restoring> parse_restore_mark(std::string_view text);

// One thread at a time. Throws what the disk refuses.
class RestoreMark {
 public:
  static constexpr std::chrono::minutes kRedoWithin{10};

  RestoreMark(std::string path, ProcessId qemu) : path_(std::move(path)), qemu_(qemu) {}

  // Durable when they return.
  void set(const std::string& checkpoint);
  void clear();
  // The restore that ended with another QEMU than this, "": none. What can no longer be used is cleared, and logged.
  std::string left_behind();

 private:
  std::optional<Restoring> load() const;
  void write(std::string_view line);
  bool just_started() const;

  const std::string path_;
  const ProcessId qemu_;
};

}  // namespace mhv::checkpoint
