// The processes of a guest, as its kernel lists them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "introspection/kernel.h"

namespace mhv::introspection {

inline constexpr std::size_t kProcessesMax = 1u << 18;

struct Process {
  std::int32_t pid = 0, parent = 0;
  std::string name;     // comm: at most 15 bytes
  std::string command;  // of list_with_commands(): its arguments with spaces between them
  bool kernel_thread = false;
  GuestVirt task;  // its task_struct
};

// Thread-safe. The Kernel outlives it.
class Processes {
 public:
  // Throws kUnsupported.
  explicit Processes(const Kernel& kernel);

  // In the order of their start. Of a guest that runs the list may change meanwhile: then it is walked again, a few times. Throws
  // kBusy when it never held together: it changes too fast, or was tampered with.
  std::vector<Process> list() const { return walk(false); }
  // A command takes as many reads again. At most 4 KiB of it; "": a kernel thread, swapped out, or behind 64 MiB of others.
  std::vector<Process> list_with_commands() const { return walk(true); }
  // The one of that number, without its command. Throws kNotFound.
  Process find(std::int32_t pid) const;

 private:
  class Pass;
  std::vector<Process> walk(bool commands) const;

  const Kernel& kernel_;
  GuestVirt first_;
  std::uint32_t tasks_, pid_, parent_, comm_, mm_;  // in a task_struct
  std::uint32_t begin_, bytes_;                     // the part of it in which they are
  std::uint32_t arg_start_, arg_end_, pgd_;         // in an mm_struct
  std::uint32_t mm_begin_, mm_bytes_;
};

}  // namespace mhv::introspection
