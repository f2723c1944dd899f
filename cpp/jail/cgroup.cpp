#include "jail/cgroup.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <filesystem>
#include <span>

#include "base/error.h"
#include "base/fd.h"

namespace mhv::jail {
namespace {

constexpr std::uint64_t kPeriodUs = 100'000;

// False: there is no such file, or it does not take that.
bool put(const std::string& file, const std::string& value) {
  try {
    write_all(Fd::open(file, O_WRONLY).get(), std::as_bytes(std::span(value)), file.c_str());
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

Cgroup::Cgroup(const Options& options) {
  if (options.cgroup.empty()) {
    spdlog::info("no cgroup was given: memory and threads are limited by process, the share of the processor ({}%) is not",
                 options.cpu_percent);
    return;
  }
  put(options.cgroup + "/cgroup.subtree_control", "+memory +pids +cpu");
  folder_ = fmt::format("{}/layer-{}", options.cgroup, options.uid);
  std::error_code error;
  std::filesystem::create_directory(folder_, error);
  if (error) throw_errno("cannot make the cgroup " + folder_, error.value());
  put(folder_ + "/cgroup.kill", "1");
  limit("memory.max", std::to_string(std::uint64_t{options.memory_mib} << 20));
  limit("memory.swap.max", "0");
  limit("pids.max", std::to_string(options.pids + 1));
  limit("cpu.max", fmt::format("{} {}", options.cpu_percent * kPeriodUs / 100, kPeriodUs));
  if (!without_.empty()) {
    spdlog::warn("{} has no {}: process limits alone hold there; delegate the controllers memory, pids and cpu", options.cgroup, without_);
  }
}

void Cgroup::limit(const std::string& file, const std::string& value) {
  if (!put(folder_ + "/" + file, value)) without_ += (without_.empty() ? "" : ", ") + file;
}

Cgroup::~Cgroup() {
  if (folder_.empty()) return;
  put(folder_ + "/cgroup.kill", "1");
  std::error_code busy;  // the next layer of this user takes it over
  std::filesystem::remove(folder_, busy);
}

void Cgroup::add(pid_t process) {
  if (folder_.empty()) return;
  const std::string line = std::to_string(process);
  const std::string file = folder_ + "/cgroup.procs";
  write_all(Fd::open(file, O_WRONLY).get(), std::as_bytes(std::span(line)), file.c_str());
}

}  // namespace mhv::jail
