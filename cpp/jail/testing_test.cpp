#include "testing_test.h"

#include <fcntl.h>
#include <pwd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "jail/subordinate.h"

namespace mhv::jail {
namespace {

namespace fs = std::filesystem;
constexpr const char* kUser = "nova-mhv";
constexpr std::uint32_t kRootsChoice = 2130706439;

void put_descriptors(const std::vector<int>& fds) {
  constexpr int kAside = 500;
  for (std::size_t i = 0; i < fds.size(); ++i) ::dup2(fds[i], kAside + static_cast<int>(i));
  for (std::size_t i = 0; i < fds.size(); ++i) ::dup2(kAside + static_cast<int>(i), 3 + static_cast<int>(i));
}

void copy_program(const char* from, const std::string& to) {
  fs::copy_file(from, to);
  fs::permissions(to, fs::perms(0755));
}

}  // namespace

Running::~Running() {
  if (pid_ > 0) {
    kill();
    ::waitpid(pid_, nullptr, 0);
  }
}

void Running::kill() { ::kill(pid_, SIGKILL); }

bool Running::wait_for(const std::string& text) {
  std::array<char, 4096> bytes{};
  while (seen_.find(text) == std::string::npos) {
    const ssize_t length = ::read(log_.get(), bytes.data(), bytes.size());
    if (length <= 0) return false;
    seen_.append(bytes.data(), static_cast<std::size_t>(length));
  }
  return true;
}

Ended Running::wait() {
  std::array<char, 4096> bytes{};
  ssize_t length = 0;
  while ((length = ::read(log_.get(), bytes.data(), bytes.size())) > 0) seen_.append(bytes.data(), static_cast<std::size_t>(length));
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), seen_};
}

void JailTest::SetUp() {
  if (::geteuid() != 0) GTEST_SKIP() << "only root may start mhv-jail as another user, and read what it made: run the tests as root";
  uid_ = kRootsChoice;
  if (std::string(GetParam()) == kUser) {
    const auto range = subordinate_range(fs::exists("/etc/subuid") ? read_file("/etc/subuid", 1 << 20) : "", kUser);
    if (::getpwnam(kUser) == nullptr || !range || !fs::exists("/usr/bin/newuidmap")) {
      GTEST_SKIP() << "this host has no user nova-mhv with a range in /etc/subuid, or no newuidmap: devstack/lib/engine makes them";
    }
    uid_ = range->first + 7;
  }
  fs::permissions(folder_.path(), fs::perms(0755));
  fs::create_directory(package());
  fs::permissions(package(), fs::perms(0755));
  copy_program(MHV_JAIL, folder_.file("mhv-jail"));
  copy_program(MHV_JAIL_ESCAPES, package() + "/escapes");
  options_ = {"--package",    package(), "--program", "escapes", "--uid",         std::to_string(uid_),
              "--memory-mib", "64",      "--pids",    "8",       "--cpu-percent", "50"};
}

void JailTest::set(const std::string& option, const std::string& value) {
  const auto at = std::find(options_.begin(), options_.end(), option);
  if (at == options_.end()) {
    options_.insert(options_.end(), {option, value});
  } else {
    *(at + 1) = value;
  }
}

std::unique_ptr<Running> JailTest::start(const Words& layer, const std::vector<int>& fds) {
  Words words;
  if (std::string(GetParam()) == kUser) {
    words = {"/usr/bin/setpriv",
             "--reuid",
             kUser,
             "--regid",
             kUser,
             "--init-groups",
             "--inh-caps=-all",
             "--bounding-set=-all,+setuid,+setgid,+dac_override,+sys_admin"};
  }
  words.push_back(folder_.file("mhv-jail"));
  words.insert(words.end(), options_.begin(), options_.end());
  words.insert(words.end(), {"--descriptors", std::to_string(fds.size()), "--"});
  words.insert(words.end(), layer.begin(), layer.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw_errno("cannot make a pipe");
  Fd read = Fd::own(ends[0]), write = Fd::own(ends[1]);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::dup2(write.get(), 1);
    ::dup2(write.get(), 2);
    put_descriptors(fds);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  return std::make_unique<Running>(pid, std::move(read));
}

std::string JailTest::attempt(const Words& layer, const std::vector<int>& fds) {
  const Ended ended = run(layer, fds);
  if (ended.status == 128 + SIGSYS) return "killed";
  const std::string said = "layer: ";
  const std::size_t at = ended.output.rfind(said);
  if (ended.status != 0 || at == std::string::npos) return "status " + std::to_string(ended.status) + ": " + ended.output;
  std::string line = ended.output.substr(at + said.size());
  return line.substr(0, line.find('\n'));
}

Fd memory_for_reading(std::size_t bytes) {
  const Fd writable = Fd::memory("guest");
  if (::ftruncate(writable.get(), static_cast<off_t>(bytes)) != 0) throw_errno("cannot make memory");
  return Fd::open("/proc/self/fd/" + std::to_string(writable.get()), O_RDONLY);
}

std::vector<pid_t> children(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/task/" + std::to_string(pid) + "/children");
  std::vector<pid_t> out;
  for (pid_t child = 0; file >> child;) out.push_back(child);
  return out;
}

std::string status_field(pid_t pid, const std::string& name) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(name + ":\t")) return line.substr(name.size() + 2);
  }
  return {};
}

}  // namespace mhv::jail
