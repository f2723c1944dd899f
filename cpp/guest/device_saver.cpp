#include "guest/device_saver.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <optional>

#include "base/error.h"
#include "guest/fdset.h"
#include "guest/stream.h"

namespace mhv::guest {
namespace {

constexpr std::chrono::seconds kSaveTimeout{120};  // the stop drains and flushes the guest's disks
constexpr int kSmallest = 1;                       // the kernel rounds it up to a page
constexpr int kRoomy = 1 << 20;                    // what anybody may ask for
constexpr const char* kCommand = "xen-save-devices-state";
constexpr const char* kOpaque = "nova-mhv device state";

}  // namespace

DeviceSaver::~DeviceSaver() {
  if (fdset_ < 0) return;
  try {
    qmp_.call("remove-fd", {{"fdset-id", fdset_}});
  } catch (const std::exception&) {
    // QEMU ended, or its monitor did: the set goes with it, or the next one removes it.
  }
}

// QEMU opens its end anew for every save, by the name it has in /proc: the descriptor of a set it would want to truncate.
void DeviceSaver::prepare() {
  if (fdset_ >= 0) return;
  remove_fdsets(qmp_, kOpaque);
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw_errno("cannot make a pipe");
  pipe_ = Fd::own(ends[0]);
  const Fd writer = Fd::own(ends[1]);
  // Only who has a descriptor of it finds it; QEMU is another user.
  if (::fchmod(writer.get(), 0622) != 0 || ::fcntl(pipe_.get(), F_SETFL, O_NONBLOCK) != 0) throw_errno("cannot set up a pipe");
  const GivenFd given = give_fd(qmp_, writer, kOpaque);
  path_ = "/proc/self/fd/" + std::to_string(given.number);
  fdset_ = given.set;
}

void DeviceSaver::wait_for_qemu(Qmp::Deadline deadline) const {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
  if (left <= 0)
    throw Error(Code::kUnavailable, "QEMU does not save its devices", "is the guest's storage reachable? QEMU waits for it");
  std::array<pollfd, 2> entries{{{pipe_.get(), POLLIN, 0}, {qmp_.fd(), POLLIN, 0}}};
  if (::poll(entries.data(), entries.size(), static_cast<int>(left)) < 0 && errno != EINTR) throw_errno("cannot wait for QEMU");
}

void DeviceSaver::read_what_is_there(std::vector<std::byte>& out) const {
  std::array<std::byte, 65536> part;
  for (;;) {
    const ssize_t n = ::read(pipe_.get(), part.data(), part.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) throw_errno("cannot read the device state");
    if (n <= 0) return;
    out.insert(out.end(), part.begin(), part.begin() + n);
    if (out.size() > kDeviceStateMax) throw Error(Code::kUnsupported, "QEMU's device state has more than 64 MiB");
  }
}

// QEMU finds that nobody reads. The next save has a pipe of its own.
void DeviceSaver::give_up() {
  pipe_.close();
  fdset_ = -1;
}

DeviceSaver::Save::Save(DeviceSaver& saver) : saver_(saver) {
  saver_.prepare();
  const int holds = ::fcntl(saver_.pipe_.get(), F_SETPIPE_SZ, kSmallest);
  if (holds < 0) throw_errno("cannot make a pipe small");
  saver_.holds_ = static_cast<std::size_t>(holds);
  command_ = saver_.qmp_.post(kCommand, {{"filename", saver_.path_}, {"live", false}});
  try {
    const auto deadline = std::chrono::steady_clock::now() + kSaveTimeout;
    for (pollfd first{saver_.pipe_.get(), POLLIN, 0}; ::poll(&first, 1, 0) <= 0; saver_.wait_for_qemu(deadline)) {
      if (saver_.qmp_.try_take(command_, kCommand)) throw Error(Code::kUnsupported, "QEMU saved no device state");
    }
  } catch (const Error& error) {
    saver_.give_up();
    if (std::string_view(error.what()).find(saver_.path_) == std::string_view::npos) throw;
    throw Error(error.code(), error.what(),
                "QEMU must be allowed to open a pipe that it was given: is there a denial of AppArmor or SELinux in the audit log?");
  }
}

DeviceSaver::Save::~Save() {
  if (!finished_) saver_.give_up();
}

std::vector<std::byte> DeviceSaver::Save::finish() {
  // Should it not become larger (the user's limit on pipes), then QEMU goes on as fast as this reads.
  ::fcntl(saver_.pipe_.get(), F_SETPIPE_SZ, kRoomy);
  const auto deadline = std::chrono::steady_clock::now() + kSaveTimeout;
  std::vector<std::byte> state;
  while (!saver_.qmp_.try_take(command_, kCommand)) {
    saver_.wait_for_qemu(deadline);
    saver_.read_what_is_there(state);
  }
  saver_.read_what_is_there(state);
  if (state.size() <= saver_.holds_)
    throw Error(Code::kUnsupported, "QEMU's device state has only " + std::to_string(state.size()) + " bytes");
  finished_ = true;
  return state;
}

}  // namespace mhv::guest
