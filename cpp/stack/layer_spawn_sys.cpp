// fork and exec of mhv-jail: between them, only async-signal-safe calls.
#include <fcntl.h>
#include <unistd.h>

#include <csignal>

#include "base/error.h"
#include "stack/layer_process.h"

namespace mhv::stack {
namespace {

constexpr int kFirst = 3;
constexpr int kOutOfTheWay = 512;  // above where the descriptors are put

[[noreturn]] void become_jail(char* const* arguments, const int* fds, std::size_t count) {
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::setpgid(0, 0);
  for (std::size_t i = 0; i < count; ++i) ::dup2(fds[i], kFirst + static_cast<int>(i));
  ::execv(arguments[0], arguments);
  ::_exit(127);
}

}  // namespace

pid_t spawn_with(const std::string& program, const std::vector<std::string>& arguments, std::span<const Fd> fds) {
  if (::access(program.c_str(), X_OK) != 0) throw_errno("cannot run " + program);
  std::vector<Fd> moved;
  std::vector<int> numbers;
  for (const Fd& fd : fds) {
    moved.push_back(Fd::own(::fcntl(fd.get(), F_DUPFD_CLOEXEC, kOutOfTheWay)));
    if (!moved.back()) throw_errno("cannot duplicate a layer's descriptor");
    numbers.push_back(moved.back().get());
  }
  std::vector<std::string> words{program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid < 0) throw_errno("cannot start a layer's process");
  if (pid == 0) become_jail(pointers.data(), numbers.data(), numbers.size());
  return pid;
}

}  // namespace mhv::stack
