#include "mhvd/layer_processes.h"

#include <fmt/format.h>
#include <pwd.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>

#include "base/error.h"
#include "mhvd/service_vm.h"

namespace mhv::mhvd {
namespace {

constexpr std::size_t kSubuidBytesMax = 1 << 20;
constexpr SubordinateIds kIdsOfRoot{0x7f000000, 65536};  // it may use any, and these are nobody's
constexpr int kEndsInMs = 100;
constexpr int kTestMs = 10'000;
constexpr std::uint32_t kProcessesMax = 32;  // threads count, too

template <typename T>
bool take_number(std::string_view text, T& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc{} && end == text.data() + text.size();
}

JailedProgram in_process(const Config& config, const LayerPackage& package, std::vector<Fd> fds) {
  std::vector<std::string> options = {"--package", package.folder, "--program", package.manifest.program};
  const auto show = [&](const char* option, const std::string& folder) {
    std::error_code error;
    if (std::filesystem::is_directory(folder, error)) options.insert(options.end(), {option, folder});
  };
  show("--python-path", config.layer_python);
  show("--data", config.layer_data + "/" + package.manifest.name);
  return {std::move(options), package.manifest.resources.memory_mib, package.manifest.resources.cpu_percent, {}, std::move(fds)};
}

JailedProgram program_of(const Config& config, const LayerPackage& package, std::vector<Fd> fds) {
  return config.runs_in_vm(package.manifest.name) ? in_machine(config.service_vm_image, package, std::move(fds))
                                                  : in_process(config, package, std::move(fds));
}

std::unique_ptr<stack::LayerProcess> run_in_jail(const Config& config, uid_t user, const JailedProgram& program) {
  std::vector<std::string> words = program.options;
  words.insert(words.end(), {"--uid", std::to_string(user), "--memory-mib", std::to_string(program.memory_mib), "--cpu-percent",
                             std::to_string(program.cpu_percent), "--pids", std::to_string(kProcessesMax), "--descriptors",
                             std::to_string(program.fds.size()), "--"});
  words.insert(words.end(), program.arguments.begin(), program.arguments.end());
  return std::make_unique<stack::LayerProcess>(config.jail, words, program.fds);
}

}  // namespace

SubordinateIds parse_subuid(const std::string& text, const std::string& user, uid_t uid) {
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    const std::string_view name = line.substr(0, first);
    if (name != user && name != std::to_string(uid)) continue;
    SubordinateIds out;
    if (take_number(line.substr(first + 1, second - first - 1), out.first) && take_number(line.substr(second + 1), out.count)) return out;
  }
  return {};
}

uid_t LayerUsers::take() {
  const uid_t own = ::geteuid();
  const std::lock_guard lock(mutex_);
  const passwd* const entry = ::getpwuid(own);
  SubordinateIds ids = parse_subuid(read_file("/etc/subuid", kSubuidBytesMax), entry == nullptr ? "" : entry->pw_name, own);
  if (ids.count == 0 && own == 0) ids = kIdsOfRoot;
  for (std::uint32_t i = 0; i < ids.count; ++i) {
    if (taken_.insert(ids.first + i).second) return ids.first + i;
  }
  throw Error(
      Code::kUnsupported, fmt::format("/etc/subuid has no {}user for a layer to run as", ids.count == 0 ? "" : "further "),
      fmt::format("usermod --add-subuids 2000000-2065535 --add-subgids 2000000-2065535 {}", entry == nullptr ? "USER" : entry->pw_name));
}

void LayerUsers::give_back(uid_t user) {
  const std::lock_guard lock(mutex_);
  taken_.erase(user);
}

void LayerProcesses::start(const LayerPackage& package, std::uint64_t generation, std::vector<Fd> fds) {
  const JailedProgram program = program_of(config_, package, std::move(fds));
  if (const auto old = running_.find(package.manifest.name); old != running_.end()) drop(old);
  const uid_t user = users_.take();
  try {
    running_[package.manifest.name] = {generation, user, run_in_jail(config_, user, program)};
  } catch (...) {
    users_.give_back(user);
    throw;
  }
}

void test_jail(const Config& config, LayerUsers& users, const LayerPackage& package) {
  std::vector<Fd> channel;
  channel.push_back(Fd::memory("channel"));
  JailedProgram program = program_of(config, package, std::move(channel));
  program.arguments = {"--help"};
  const uid_t user = users.take();
  std::string ended;
  try {
    const auto process = run_in_jail(config, user, program);
    pollfd polled{process->pidfd(), POLLIN, 0};
    ended = ::poll(&polled, 1, kTestMs) == 1 ? process->reap() : "it does not end";
  } catch (...) {
    users.give_back(user);
    throw;
  }
  users.give_back(user);
  if (ended != stack::LayerProcess::kWell) {
    throw Error(Code::kUnsupported, "a layer cannot be started in its sandbox: " + ended, "mhvd's log says why, in lines of mhv-jail");
  }
}

void LayerProcesses::drop(std::map<std::string, Running>::iterator it) {
  it->second.process.reset();
  users_.give_back(it->second.user);
  running_.erase(it);
}

void LayerProcesses::stop(const std::string& name, std::uint64_t generation) {
  const auto found = running_.find(name);
  if (found == running_.end() || found->second.generation != generation) return;
  // The worker may have noticed its end first, and not how it came.
  pollfd polled{found->second.process->pidfd(), POLLIN, 0};
  if (::poll(&polled, 1, kEndsInMs) == 1) spdlog::warn("layer {}: {}", name, found->second.process->reap());
  drop(found);
}

void LayerProcesses::stop_all() {
  while (!running_.empty()) drop(running_.begin());
}

void LayerProcesses::add_to(std::vector<pollfd>& polled) const {
  for (const auto& [name, running] : running_) polled.push_back({running.process->pidfd(), POLLIN, 0});
}

std::vector<protocol::LayerEnded> LayerProcesses::ended() {
  std::vector<protocol::LayerEnded> out;
  for (auto it = running_.begin(); it != running_.end();) {
    const auto next = std::next(it);
    pollfd polled{it->second.process->pidfd(), POLLIN, 0};
    if (::poll(&polled, 1, 0) == 1) {
      protocol::LayerEnded& ended = out.emplace_back();
      ended.set_name(it->first);
      ended.set_generation(it->second.generation);
      ended.set_reason(it->second.process->reap());
      drop(it);
    }
    it = next;
  }
  return out;
}

}  // namespace mhv::mhvd
