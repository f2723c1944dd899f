#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstring>
#include <ctime>
#include <fstream>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "jail/cpu_share.h"
#include "jail/filter_sys.h"
#include "jail/identity_sys.h"
#include "jail/jail.h"
#include "jail/limits_sys.h"
#include "jail/output.h"
#include "jail/root_sys.h"

namespace mhv::jail {
namespace {

constexpr int kNamespaceFlags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
constexpr int kCannotExecute = 126;

struct Pipe {
  Fd read, write;
};

Pipe make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw_errno("cannot make a pipe");
  return {Fd::own(ends[0]), Fd::own(ends[1])};
}

// Nothing that is opened later may take a number that means something to the layer.
void fill_standard_descriptors() {
  for (int fd = 0; fd < kFirstDescriptor; ++fd) {
    if (::fcntl(fd, F_GETFD) < 0 && ::open("/dev/null", O_RDWR) != fd) throw_errno("cannot open /dev/null");
  }
}

// Bytes of files among the descriptors. What the layer is to read must not be open for writing, nor be such that a machine could open it
// so.
std::uint64_t check_descriptors(const Options& options) {
  std::uint64_t bytes = 0;
  for (int fd = kFirstDescriptor; fd < kFirstDescriptor + static_cast<int>(options.descriptors); ++fd) {
    struct stat status {};
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0 || ::fstat(fd, &status) != 0) {
      throw Error(Code::kInvalid, fmt::format("descriptor {} is not open", fd), "--descriptors says how many are, from 3 on");
    }
    if (options.machine && fd > kFirstDescriptor && (status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
      throw Error(Code::kInvalid, fmt::format("descriptor {} could be opened again for writing: its file is everybody's to write", fd));
    }
    if (fd >= kFirstMemory && ((flags & O_ACCMODE) != O_RDONLY || !S_ISREG(status.st_mode))) {
      throw Error(Code::kInvalid, fmt::format("descriptor {} is not memory that is open for reading alone", fd));
    }
    if (S_ISREG(status.st_mode)) bytes += static_cast<std::uint64_t>(status.st_size);
  }
  return bytes;
}

void close_from(unsigned first) {
  if (::close_range(first, ~0u, 0) != 0) throw_errno("cannot close what the layer is not to have");
}

// ---------------------------------------------------------------- inside

void default_signals() {
  for (int signal = 1; signal < NSIG; ++signal) std::signal(signal, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

// The layer's process and init share a root, which the former makes: what it shows may be its own alone. Neither goes on before the other
// is confined.
struct Steps {
  Pipe entered = make_pipe(), confined = make_pipe();
};

// Waits for the other end's only byte. False: its process has ended.
bool wait_for(const Fd& step) {
  char byte = 0;
  ssize_t length = -1;
  while ((length = ::read(step.get(), &byte, 1)) < 0 && errno == EINTR) {
  }
  return length == 1;
}

void reach(Fd& step) {
  write_all(step.get(), std::as_bytes(std::span("s", 1)), "pipe");
  step.close();
}

void confine(const Options& options, std::uint64_t mapped_bytes) {
  set_limits(options, mapped_bytes);
  drop_capabilities();
  confine_files();
}

[[noreturn]] void become_layer(const Options& options, std::uint64_t mapped_bytes, NewRoot root, Steps& steps) {
  steps.entered.read.close();
  steps.confined.write.close();
  if (options.machine) root.show_descriptors();
  take_identity();
  root.enter();
  confine(options, mapped_bytes);
  reach(steps.entered.write);
  if (!wait_for(steps.confined.read)) ::_exit(kNotRun);
  if (!options.machine && ::chdir("/layer") != 0) throw_errno("cannot enter the layer's package");
  default_signals();
  close_from(kFirstDescriptor + options.descriptors);
  const std::string program = options.machine ? options.program : "/layer/" + options.program;
  std::vector<std::string> words = {program};
  words.insert(words.end(), options.arguments.begin(), options.arguments.end());
  std::vector<std::string> variables = {"PATH=/usr/bin:/bin", "HOME=/layer", "LANG=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1",
                                        "PYTHONUNBUFFERED=1"};
  if (!options.python_path.empty()) variables.emplace_back("PYTHONPATH=/python");
  std::vector<char*> argv, environment;
  for (std::string& word : words) argv.push_back(word.data());
  for (std::string& variable : variables) environment.push_back(variable.data());
  argv.push_back(nullptr);
  environment.push_back(nullptr);
  filter_system_calls(options.machine);
  ::execve(argv[0], argv.data(), environment.data());
  spdlog::error("cannot run {}: {}; it must be readable and executable by everybody, and its interpreter be there", options.program,
                std::strerror(errno));
  ::_exit(kCannotExecute);
}

[[noreturn]] void reap_until_end_of(pid_t layer) {
  close_from(kFirstDescriptor);
  for (;;) {
    int status = 0;
    const pid_t ended = ::wait(&status);
    if (ended < 0 && errno != EINTR) ::_exit(kNotRun);
    if (ended == layer) ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  }
}

void end_with_parent(const Fd& go) {
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) throw_errno("cannot follow mhv-jail");
  pollfd parent{go.get(), 0, 0};  // the other end is open as long as it lives
  if (::poll(&parent, 1, 0) != 0) ::_exit(kNotRun);
}

[[noreturn]] void inside(const Options& options, std::uint64_t mapped_bytes, Pipe& go, const Fd& output) {
  try {
    go.write.close();
    const Fd null = Fd::open("/dev/null", O_RDONLY);
    if (::dup2(null.get(), 0) < 0 || ::dup2(output.get(), 1) < 0 || ::dup2(output.get(), 2) < 0) throw_errno("cannot redirect");
    spdlog::set_pattern("mhv-jail: %l: %v");
    if (!wait_for(go.read)) ::_exit(kNotRun);  // mhv-jail has ended
    if (::unshare(CLONE_NEWCGROUP) != 0) throw_errno("cannot make a cgroup namespace");
    if (::setsid() < 0) throw_errno("cannot make a session");
    if (::sethostname("layer", 5) != 0) throw_errno("cannot name the layer's host");
    if (::chdir("/") != 0) throw_errno("cannot leave the caller's folder");
    NewRoot root(options.package, options.python_path, options.data);
    Steps steps;
    const pid_t layer = ::fork();
    if (layer < 0) throw_errno("cannot start the layer");
    if (layer == 0) become_layer(options, mapped_bytes, std::move(root), steps);
    steps.entered.write.close();
    steps.confined.read.close();
    if (wait_for(steps.entered.read)) {
      take_identity();
      confine(options, mapped_bytes);
      end_with_parent(go.read);  // last of what changes credentials: that would undo it
      filter_system_calls(false);
      reach(steps.confined.write);
    }
    reap_until_end_of(layer);
  } catch (const Error& error) {
    spdlog::error("{}{}{}", error.what(), error.hint().empty() ? "" : ": ", error.hint());
  } catch (const std::exception& error) {
    spdlog::error("{}", error.what());
  }
  ::_exit(kNotRun);
}

// ---------------------------------------------------------------- outside

Fd open_process(pid_t pid) {
  Fd out = Fd::own(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!out) throw_errno("cannot watch process " + std::to_string(pid));
  return out;
}

// A process in new namespaces, killed with its object.
class Inside {
 public:
  template <typename Body>
  explicit Inside(const Body& body)
      : pid_(static_cast<pid_t>(::syscall(SYS_clone, kNamespaceFlags | SIGCHLD, nullptr, nullptr, nullptr, 0))) {
    if (pid_ == 0) body();
    if (pid_ < 0) {
      throw Error(Code::kUnsupported, fmt::format("cannot make the layer's namespaces: {}", std::strerror(errno)),
                  "users need user namespaces: see kernel.unprivileged_userns_clone, user.max_user_namespaces and AppArmor's restriction");
    }
  }
  ~Inside() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      wait();
    }
  }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
  pid_t pid() const { return pid_; }
  int wait() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t pid_;
};

// False: the output has ended.
bool read_output(const Fd& pipe, Output& output) {
  std::array<char, 4096> bytes{};
  const ssize_t length = ::read(pipe.get(), bytes.data(), bytes.size());
  if (length > 0) output.add({bytes.data(), static_cast<std::size_t>(length)}, Output::Clock::now());
  return length > 0 || (length < 0 && (errno == EINTR || errno == EAGAIN));
}

// Stops the layer's process whenever it has used its share of the processor. Init only reaps.
class Throttle {
 public:
  Throttle(pid_t init, std::uint32_t percent)
      : children_(fmt::format("/proc/{0}/task/{0}/children", init)),
        share_(percent, std::thread::hardware_concurrency(), CpuShare::Clock::now()) {}

  // Returns when to call it again.
  CpuShare::Clock::duration look() {
    if (!process_ && !find()) return kNotThereYet;
    timespec used{};
    if (::clock_gettime(clock_, &used) != 0) return kNotThereYet;  // it has ended, and init is about to
    const CpuShare::Verdict now =
        share_.look(std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec), CpuShare::Clock::now());
    if (now.stop != stopped_) ::syscall(SYS_pidfd_send_signal, process_.get(), now.stop ? SIGSTOP : SIGCONT, nullptr, 0);
    if (now.stop && !told_) spdlog::warn("the layer has used its share of the processor, and stands still now and then");
    stopped_ = now.stop;
    told_ |= stopped_;
    return now.look_again;
  }

 private:
  static constexpr auto kNotThereYet = std::chrono::milliseconds(10);

  bool find() {
    pid_t layer = 0;
    if (!(std::ifstream(children_) >> layer) || ::clock_getcpuclockid(layer, &clock_) != 0) return false;
    process_ = Fd::own(static_cast<int>(::syscall(SYS_pidfd_open, layer, 0)));
    return static_cast<bool>(process_);
  }

  const std::string children_;
  CpuShare share_;
  Fd process_;
  clockid_t clock_{};
  bool stopped_ = false, told_ = false;
};

int milliseconds_of(CpuShare::Clock::duration time) {
  return static_cast<int>(std::min<std::int64_t>(std::chrono::ceil<std::chrono::milliseconds>(time).count(), 60'000));
}

// Until the layer's init or mhv-jail's parent has ended.
void attend(const Fd& init, const Fd& parent, Fd pipe, Output& output, Throttle& throttle) {
  std::array<pollfd, 3> watched = {{{init.get(), POLLIN, 0}, {parent.get(), POLLIN, 0}, {pipe.get(), POLLIN, 0}}};
  for (;;) {
    if (::poll(watched.data(), watched.size(), milliseconds_of(throttle.look())) < 0) {
      if (errno == EINTR) continue;
      throw_errno("cannot wait for the layer");
    }
    if (watched[2].revents != 0 && !read_output(pipe, output)) watched[2].fd = -1;
    if (watched[0].revents != 0 || watched[1].revents != 0) break;
  }
  // What it said last; all who could write have ended, or are about to be killed.
  for (std::size_t left = kBurstBytes / 4096; left > 0 && watched[0].revents != 0 && watched[2].fd >= 0; --left) {
    if (!read_output(pipe, output)) break;
  }
}

}  // namespace

int run(const Options& options) {
  fill_standard_descriptors();
  const std::uint64_t mapped_bytes = check_descriptors(options);
  const Fd parent = open_process(::getppid());
  Pipe go = make_pipe(), said = make_pipe();
  Inside layer([&] { inside(options, mapped_bytes, go, said.write); });
  for (int fd = kFirstDescriptor; fd < kFirstDescriptor + static_cast<int>(options.descriptors); ++fd) ::close(fd);
  said.write.close();
  map_identity(layer.pid(), options.uid);
  write_all(go.write.get(), std::as_bytes(std::span("g", 1)), "pipe");
  Output output([](const std::string& line) { spdlog::info("layer: {}", line); }, Output::Clock::now());
  const Fd init = open_process(layer.pid());
  Throttle throttle(layer.pid(), options.cpu_percent);
  attend(init, parent, std::move(said.read), output, throttle);
  output.finish();
  ::kill(layer.pid(), SIGKILL);  // when it is the parent that has ended
  return layer.wait();
}

}  // namespace mhv::jail
