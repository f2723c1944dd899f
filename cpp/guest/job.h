// QEMU's jobs.
#pragma once

#include <optional>
#include <string>

#include "guest/qmp.h"

namespace mhv::guest {

// Waits until the job has concluded; it stays there for job-dismiss. QEMU's error, "" when it went well; nullopt: there is no such job.
// Throws kUnavailable after two minutes, else as Qmp::call().
std::optional<std::string> wait_for_job(Qmp& qmp, const std::string& id);

}  // namespace mhv::guest
