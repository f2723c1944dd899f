#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <linux/netlink.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <exception>
#include <thread>

#include "base/error.h"
#include "net/namespaces.h"

namespace mhv::net {
namespace {

constexpr const char* kOwn = "/proc/thread-self/ns/net";

// In a thread of its own, which alone changes its namespace.
template <typename Work>
void elsewhere(const Work& work) {
  std::exception_ptr error;
  std::thread([&] {
    try {
      work();
    } catch (...) {
      error = std::current_exception();
    }
  }).join();
  if (error) std::rethrow_exception(error);
}

Namespaces::Inside open_here() {
  Namespaces::Inside inside;
  inside.net = own_namespace();
  inside.netlink = Fd::own(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!inside.netlink) throw_errno("cannot open rtnetlink");
  inside.tun = Fd::open("/dev/net/tun", O_RDWR);
  return inside;
}

// A kernel without IPv6 has no such file.
void silence_ipv6() {
  for (const char* which : {"all", "default"}) {
    const std::string path = fmt::format("/proc/sys/net/ipv6/conf/{}/disable_ipv6", which);
    const Fd file = Fd::own(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (file && ::write(file.get(), "1", 1) != 1) throw_errno("cannot write " + path);
  }
}

}  // namespace

Fd own_namespace() { return Fd::open(kOwn, O_RDONLY); }

Namespaces::Namespaces(const std::string& folder) {
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) throw_errno("cannot create " + folder);
  folder_ = Fd::open(folder, O_PATH | O_DIRECTORY | O_NOFOLLOW);
  struct stat file {};
  if (::fstat(folder_.get(), &file) != 0) throw_errno("cannot look at " + folder);
  // It may stand in a folder of a less privileged user.
  if (file.st_uid != ::geteuid() || (file.st_mode & 077) != 0) {
    throw Error(Code::kPermission, folder + " is not root's alone", "remove it");
  }
}

std::string Namespaces::path(const std::string& name) const { return fmt::format("/proc/self/fd/{}/{}", folder_.get(), name); }

std::optional<Namespaces::Inside> Namespaces::find(const std::string& name) const {
  const Fd net = Fd::own(::openat(folder_.get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!net) {
    if (errno == ENOENT) return std::nullopt;
    throw_errno("cannot open the network namespace " + name);
  }
  struct statfs system {};
  if (::fstatfs(net.get(), &system) != 0) throw_errno("cannot look at the network namespace " + name);
  if (system.f_type != NSFS_MAGIC) return std::nullopt;  // it was about to be bound
  std::optional<Inside> inside;
  elsewhere([&] {
    if (::setns(net.get(), CLONE_NEWNET) != 0) throw_errno("cannot enter the network namespace " + name);
    inside = open_here();
  });
  return inside;
}

Namespaces::Inside Namespaces::make(const std::string& name) const {
  const Fd place = Fd::own(::openat(folder_.get(), name.c_str(), O_RDONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0400));
  if (!place) throw_errno("cannot create a place for the network namespace " + name);
  Inside inside;
  elsewhere([&] {
    if (::unshare(CLONE_NEWNET) != 0) throw_errno("cannot make a network namespace");
    silence_ipv6();
    inside = open_here();
    if (::mount(kOwn, path(name).c_str(), nullptr, MS_BIND, nullptr) != 0) throw_errno("cannot keep the network namespace " + name);
  });
  return inside;
}

void Namespaces::remove(const std::string& name) const {
  const std::string place = path(name);
  while (::umount2(place.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
  }
  if (errno != EINVAL && errno != ENOENT) throw_errno("cannot let go of the network namespace " + name);
  if (::unlinkat(folder_.get(), name.c_str(), 0) != 0 && errno != ENOENT) throw_errno("cannot remove the place of " + name);
}

}  // namespace mhv::net
