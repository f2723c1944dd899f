// The files that the guest's processes have open.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "introspection/each_process.h"
#include "introspection/paths.h"

namespace mhv::introspection {

struct File {
  unsigned fd = 0;
  std::string_view kind;  // "file", "directory", "character", "block", "pipe", "link", "socket" or "other"
  std::string path;       // as /proc/PID/fd has it: "/etc/passwd", "pipe:[17]", "socket:[18]", "anon_inode:[eventpoll]"
  std::uint64_t inode = 0;
  bool readable = false, writable = false;  // it was opened so
  GuestVirt structure;                      // its struct file
};

// Thread-safe. The Kernel outlives it.
class Files {
 public:
  // Throws kUnsupported.
  explicit Files(const Kernel& kernel);

  // Of the process `pid`, or of all. Throws kBusy, kNotFound.
  std::vector<OfProcess<File>> list(std::optional<std::int32_t> pid) const;

  // What a descriptor leads to: struct file. For those who only look for some. Throws Torn.
  struct Open {
    unsigned fd = 0;
    GuestVirt file;
  };
  std::vector<Open> open(Walk& walk, const Process& process) const;
  std::uint16_t mode(Walk& walk, GuestVirt file) const;
  std::uint64_t inode(Walk& walk, GuestVirt file) const;

 private:
  File read(Walk& walk, Open open) const;

  const Kernel& kernel_;
  Processes processes_;
  Paths paths_;
  std::uint32_t files_, tgid_;              // in a task_struct
  std::uint32_t table_, count_, pointers_;  // in a files_struct, a fdtable
  std::uint32_t place_, inode_, mode_;      // in a struct file
  std::uint32_t inode_number_, inode_mode_;
};

}  // namespace mhv::introspection
