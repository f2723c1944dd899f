// Where a guest's userfaultfd can be found again: <run-dir>/guests/<uuid>.uffd, one line
//   PID START_TIME NUMBER TRACKING
// NUMBER is the descriptor inside QEMU; TRACKING is 1 once a worker has registered the guest's RAM with it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/process.h"

namespace mhv::mhvd {

struct UffdRecord {
  ProcessId process;
  int number = -1;
  bool tracking = false;
  friend bool operator==(const UffdRecord&, const UffdRecord&) = default;
};

std::optional<UffdRecord> parse_uffd_record(std::string_view line);  // nullopt: not one. Pure.
std::optional<UffdRecord> load_uffd_record(const std::string& path);
void save_uffd_record(const std::string& path, const UffdRecord& record);

// QEMU's own list of its memory blocks as of its first attach: <run-dir>/guests/<uuid>.ramblock, "PID START_TIME\n" and the text of
// HMP `info ramblock`. Read when QEMU may not be asked.
std::optional<std::string> load_ramblock_record(const std::string& path, const ProcessId& process);  // nullopt: not of this process
void save_ramblock_record(const std::string& path, const ProcessId& process, const std::string& listing);

}  // namespace mhv::mhvd
