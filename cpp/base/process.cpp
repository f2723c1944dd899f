#include "base/process.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <string>
#include <utility>

#include "base/error.h"

namespace mhv {
namespace {

constexpr int kStateField = 3;
constexpr int kStartTimeField = 22;
constexpr char kZombie = 'Z';

}  // namespace

std::optional<ProcessStat> parse_process_stat(std::string_view text) {
  const std::size_t name_end = text.rfind(')');  // a command's name may hold blanks and brackets
  if (name_end == std::string_view::npos) return std::nullopt;
  text.remove_prefix(name_end + 1);
  ProcessStat out;
  for (int field = kStateField;; ++field) {
    if (text.empty() || text[0] != ' ') return std::nullopt;
    text.remove_prefix(1);
    const std::size_t length = text.find(' ');
    if (length == 0 || length == std::string_view::npos) return std::nullopt;
    if (field == kStateField) out.state = text[0];
    if (field == kStartTimeField) {
      const auto [end, error] = std::from_chars(text.data(), text.data() + length, out.start_time);
      if (error != std::errc{} || end != text.data() + length) return std::nullopt;
      return out;
    }
    text.remove_prefix(length);
  }
}

std::optional<ProcessId> identify_process(std::int32_t pid) {
  try {
    const auto stat = parse_process_stat(read_file("/proc/" + std::to_string(pid) + "/stat", 4096));
    if (!stat || stat->state == kZombie) return std::nullopt;
    return ProcessId{pid, stat->start_time};
  } catch (const Error&) {
    return std::nullopt;
  }
}

Fd watch_process(const ProcessId& process) {
  Fd pidfd = Fd::own(static_cast<int>(::syscall(SYS_pidfd_open, process.pid, 0)));
  return identify_process(process.pid) == process ? std::move(pidfd) : Fd();
}

}  // namespace mhv
