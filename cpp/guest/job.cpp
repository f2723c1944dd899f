#include "guest/job.h"

#include <time.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"

namespace mhv::guest {
namespace {

constexpr std::chrono::seconds kJobTimeout{120};
constexpr long kJobPollNs = 200'000;

}  // namespace

std::optional<std::string> wait_for_job(Qmp& qmp, const std::string& id) {
  const auto deadline = std::chrono::steady_clock::now() + kJobTimeout;
  while (std::chrono::steady_clock::now() < deadline) {
    const Qmp::Json jobs = qmp.call("query-jobs");
    const auto job = std::find_if(jobs.begin(), jobs.end(), [&](const Qmp::Json& entry) { return text_of(entry, "id") == id; });
    if (job == jobs.end()) return std::nullopt;
    if (text_of(*job, "status") == "concluded") return text_of(*job, "error");
    const timespec pause{0, kJobPollNs};
    ::nanosleep(&pause, nullptr);
  }
  throw Error(Code::kUnavailable, "QEMU does not finish its job " + id);
}

}  // namespace mhv::guest
