#include "checkpoint/restore_mark.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <span>

#include "base/error.h"
#include "base/fd.h"

namespace mhv::checkpoint {
namespace {

constexpr std::string_view kHead = "nova-mhv restoring 1 ";
constexpr std::size_t kMarkBytes = 512;
constexpr std::size_t kCheckpointIdBytesMax = 63;

[[noreturn]] void damaged() { throw Error(Code::kCorrupt, "this is no mark of a restore"); }

std::string_view take_word(std::string_view& text, char end) {
  const std::size_t at = text.find(end);
  if (at == 0 || at == std::string_view::npos) damaged();
  const std::string_view word = text.substr(0, at);
  text.remove_prefix(at + 1);
  return word;
}

template <typename Number>
Number number_of(std::string_view word) {
  Number number{};
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
  if (error != std::errc{} || end != word.data() + word.size()) damaged();
  return number;
}

bool is_of_an_id(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || c == '-'; }

}  // namespace

std::optional<Restoring> parse_restore_mark(std::string_view text) {
  if (text.size() > kMarkBytes) damaged();
  text = text.substr(0, text.find_last_not_of('\0') + 1);
  if (text.empty()) return std::nullopt;
  if (!text.starts_with(kHead)) damaged();
  text.remove_prefix(kHead.size());
  Restoring out;
  out.checkpoint = take_word(text, ' ');
  out.qemu.pid = number_of<std::int32_t>(take_word(text, ' '));
  out.qemu.start_time = number_of<std::uint64_t>(take_word(text, '\n'));
  if (!text.empty() || out.checkpoint.size() > kCheckpointIdBytesMax || !std::ranges::all_of(out.checkpoint, is_of_an_id)) damaged();
  return out;
}

void RestoreMark::write(std::string_view line) {
  std::array<std::byte, kMarkBytes> block{};
  std::memcpy(block.data(), line.data(), line.size());
  const bool is_new = !std::filesystem::exists(path_);
  const Fd file = Fd::open(path_, O_WRONLY | O_CREAT, 0600);
  pwrite_all(file.get(), block, 0, path_.c_str());
  if (::ftruncate(file.get(), kMarkBytes) != 0) throw_errno("cannot cut off " + path_);  // what somebody else left
  if (::fdatasync(file.get()) != 0) throw_errno("cannot sync " + path_);
  if (is_new) fsync_directory(std::filesystem::path(path_).parent_path());
}

void RestoreMark::set(const std::string& checkpoint) { write(fmt::format("{}{} {} {}\n", kHead, checkpoint, qemu_.pid, qemu_.start_time)); }

void RestoreMark::clear() { write({}); }

std::optional<Restoring> RestoreMark::load() const {
  if (!std::filesystem::exists(path_)) return std::nullopt;
  try {
    return parse_restore_mark(read_file(path_, kMarkBytes));
  } catch (const Error& error) {
    spdlog::error("{}: {}; if a restore of this guest was cut off, its disks are between two moments: restore a checkpoint", path_,
                  error.what());
    return std::nullopt;
  }
}

bool RestoreMark::just_started() const {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  const auto ticks = static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
  return static_cast<std::uint64_t>(now.tv_sec) <
         qemu_.start_time / ticks + static_cast<std::uint64_t>(std::chrono::seconds(kRedoWithin).count());
}

std::string RestoreMark::left_behind() {
  const std::optional<Restoring> found = load();
  if (found && found->qemu != qemu_) {
    if (just_started()) return found->checkpoint;
    spdlog::error(
        "the restore of checkpoint {} was cut off by the end of QEMU, and the guest has run on those disks since: they may be damaged; "
        "restore a checkpoint, or have the guest check its file systems",
        found->checkpoint);
  }
  try {
    clear();
  } catch (const Error& error) {
    if (found || error.code() != Code::kNoSpace) throw;
    spdlog::warn("{}; no restore until there is", error.what());
  }
  return {};
}

}  // namespace mhv::checkpoint
