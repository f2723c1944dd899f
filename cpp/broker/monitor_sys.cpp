#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <string_view>

#include "base/error.h"
#include "broker/monitor.h"
#include "broker/process.h"

namespace mhv::broker {
namespace {

std::string name_inside(const std::string& folder, const std::string& path) {
  const std::string_view text = path;
  const bool inside = text.starts_with(folder) && text.substr(folder.size()).starts_with('/');
  const std::string name(inside ? text.substr(folder.size() + 1) : std::string_view());
  if (name.empty() || name == "." || name == ".." || name.size() > NAME_MAX || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos) {
    throw Error(Code::kInvalid, fmt::format("a monitor socket must stand directly in {}", folder));
  }
  return name;
}

}  // namespace

Fd connect_monitor(const std::string& folder, const std::string& path) {
  const std::string name = name_inside(folder, path);
  const Fd directory = Fd::open(folder, O_PATH | O_DIRECTORY | O_NOFOLLOW);
  open_how how{};
  how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  const Fd handle = Fd::own(static_cast<int>(::syscall(SYS_openat2, directory.get(), name.c_str(), &how, sizeof how)));
  if (!handle) throw_errno("cannot open " + path);
  struct stat file {};
  if (::fstat(handle.get(), &file) != 0) throw_errno("cannot look at " + path);
  if (!S_ISSOCK(file.st_mode)) throw Error(Code::kInvalid, path + " is no socket");

  Fd connection = Fd::own(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!connection) throw_errno("cannot create a socket");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // Through the handle: what was looked at is what is connected to.
  const std::string by_handle = fmt::format("/proc/self/fd/{}", handle.get());
  std::memcpy(address.sun_path, by_handle.data(), by_handle.size());
  if (::connect(connection.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (errno == ECONNREFUSED || errno == EAGAIN) {
      throw Error(Code::kUnavailable, fmt::format("nobody answers at {}: {}", path, std::strerror(errno)),
                  "the guest has ended, or another client holds its monitor");
    }
    throw_errno("cannot connect to " + path);
  }
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) throw_errno("cannot read the peer of " + path);
  (void)QemuProcess::of_peer(peer.pid);
  if (::fcntl(connection.get(), F_SETFL, 0) != 0) throw_errno("cannot make the monitor connection blocking");
  return connection;
}

}  // namespace mhv::broker
