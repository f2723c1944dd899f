#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <charconv>

#include "base/error.h"
#include "base/process.h"
#include "broker/process.h"

namespace mhv::broker {
namespace {

constexpr const char* kUffdDevice = "/dev/userfaultfd";
constexpr std::string_view kUffdLink = "anon_inode:[userfaultfd]";
constexpr std::string_view kDeleted = " (deleted)";
constexpr std::size_t kLinkMax = 4096;
constexpr int kNumbersMax = 1024;                // QEMU opens its KVM machine early
constexpr std::size_t kProcFileMax = 16u << 20;  // 65,530 mappings fit

std::string read_link_at(int folder, const char* name) {
  std::array<char, kLinkMax> text;
  const ssize_t n = ::readlinkat(folder, name, text.data(), text.size());
  if (n < 0) throw_errno(fmt::format("cannot read the link {}", name));
  if (static_cast<std::size_t>(n) == text.size()) throw Error(Code::kInvalid, fmt::format("the link {} is too long", name));
  return std::string(text.data(), static_cast<std::size_t>(n));
}

std::string read_small(int fd) {
  std::string text;
  std::array<char, 4096> part;
  for (;;) {
    const ssize_t n = ::read(fd, part.data(), part.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("cannot read from /proc");
    if (n == 0) return text;
    text.append(part.data(), static_cast<std::size_t>(n));
    if (text.size() > kProcFileMax) throw Error(Code::kInvalid, "a file of /proc is too long");
  }
}

[[noreturn]] void throw_gone(int pid) { throw Error(Code::kGone, fmt::format("process {} has ended", pid)); }

}  // namespace

bool names_qemu(std::string_view exe_link) {
  if (exe_link.ends_with(kDeleted)) exe_link.remove_suffix(kDeleted.size());
  if (!exe_link.starts_with("/usr/") || exe_link.find("/../") != std::string_view::npos) return false;
  constexpr std::string_view kPrefix = "qemu-system-";
  const std::string_view base = exe_link.substr(exe_link.rfind('/') + 1);
  return base.size() > kPrefix.size() && base.starts_with(kPrefix);
}

bool names_ram_file(std::string_view link) {
  constexpr std::array<std::string_view, 5> kFolders = {"/memfd:", "/dev/shm/", "/dev/hugepages/", "/run/hugepages/",
                                                        "/var/lib/libvirt/qemu/ram/"};
  for (const std::string_view folder : kFolders) {
    if (link.starts_with(folder) && link.size() > folder.size()) return link.find("/../") == std::string_view::npos;
  }
  return false;
}

bool maps_shared_writable(std::string_view maps, std::uint64_t start, std::uint64_t end, std::uint64_t inode) {
  // "7f0000000000-7f0020000000 rw-s 00000000 00:01 1027    /memfd:pc.ram (deleted)"
  const std::string head = fmt::format("{:08x}-{:08x} rw-s ", start, end);
  std::size_t at = maps.starts_with(head) ? 0 : maps.find("\n" + head);
  if (at == std::string_view::npos) return false;
  if (maps[at] == '\n') ++at;
  std::string_view rest = maps.substr(at + head.size());
  for (int field = 0; field < 2; ++field) {  // offset, device
    const std::size_t blank = rest.find(' ');
    if (blank == std::string_view::npos) return false;
    rest.remove_prefix(blank + 1);
  }
  std::uint64_t found = 0;
  const auto [stop, error] = std::from_chars(rest.data(), rest.data() + rest.size(), found);
  return error == std::errc() && stop != rest.data() && found == inode;
}

std::string own_link(int fd) {
  const Fd folder = Fd::open("/proc/self/fd", O_PATH | O_DIRECTORY);
  return read_link_at(folder.get(), std::to_string(fd).c_str());
}

QemuProcess::QemuProcess(int pid) : pid_(pid) {
  if (pid <= 1) throw Error(Code::kInvalid, fmt::format("{} is no guest's process id", pid));
  pidfd_ = Fd::own(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd_) {
    if (errno == ESRCH || errno == EINVAL) throw_gone(pid);  // EINVAL: a thread's id
    throw_errno(fmt::format("cannot open process {}", pid));
  }
  try {
    folder_ = Fd::open(fmt::format("/proc/{}", pid), O_PATH | O_DIRECTORY);
  } catch (const Error& e) {
    if (e.code() == Code::kNotFound) throw_gone(pid);
    throw;
  }
}

QemuProcess::QemuProcess(int pid, std::uint64_t start_time) : QemuProcess(pid) {
  const auto stat = parse_process_stat(read_small(open("stat", O_RDONLY).get()));
  if (!stat || stat->start_time != start_time) throw_gone(pid);
  // The pidfd is older than the folder: if it still names a living process, both name the same one.
  if (!alive()) throw_gone(pid);
  check_program();
}

QemuProcess QemuProcess::of_peer(int pid) {
  QemuProcess process(pid);
  if (!process.alive()) throw_gone(pid);
  process.check_program();
  return process;
}

bool QemuProcess::alive() const {
  pollfd poll_for{pidfd_.get(), POLLIN, 0};
  if (::poll(&poll_for, 1, 0) != 0) return false;
  // While it ends it has no program any more, before its pidfd says so.
  char first = 0;
  return ::readlinkat(folder_.get(), "exe", &first, 1) >= 0 || (errno != ENOENT && errno != ESRCH);
}

std::string QemuProcess::link(const char* name) const {
  try {
    return read_link_at(folder_.get(), name);
  } catch (const Error&) {
    if (!alive()) throw_gone(pid_);
    throw;
  }
}

// A name alone proves little: in a mount namespace of its own anyone may have something at that path. So the file must also be
// root's, writable by root only, and be the very file at that path here (or deleted: the package was upgraded).
void QemuProcess::check_program() const {
  const std::string path = link("exe");
  struct stat running {};
  if (::fstatat(folder_.get(), "exe", &running, 0) != 0) {
    const int error = errno;
    if (!alive()) throw_gone(pid_);
    throw_errno("cannot look at the program of a process", error);
  }
  struct stat installed {};
  const bool same = ::stat(path.c_str(), &installed) == 0 && installed.st_dev == running.st_dev && installed.st_ino == running.st_ino;
  const bool trusted = running.st_uid == 0 && (running.st_mode & (S_IWGRP | S_IWOTH)) == 0;
  if (!names_qemu(path) || !trusted || (!same && running.st_nlink != 0)) {
    throw Error(Code::kPermission, fmt::format("process {} runs {}, which is no installed QEMU system emulator", pid_, path),
                "guests run /usr/bin/qemu-system-*, owned by root");
  }
}

Fd QemuProcess::open(const char* name, int flags) const {
  const int number = ::openat(folder_.get(), name, flags | O_CLOEXEC);
  if (number < 0) {
    const int error = errno;
    if (error == ESRCH || error == ENOENT || !alive()) throw_gone(pid_);
    throw_errno(fmt::format("cannot open /proc/{}/{}", pid_, name), error);
  }
  return Fd::own(number);
}

Fd QemuProcess::open_mapping(std::uint64_t start, std::uint64_t end, int flags) const {
  const std::string range = fmt::format("{:x}-{:x}", start, end);
  const std::string name = "map_files/" + range;
  // A path handle first: opening the file for good may have effects, and the mapping may change between two looks.
  const Fd handle = Fd::own(::openat(folder_.get(), name.c_str(), O_PATH | O_CLOEXEC));
  if (!handle) {
    const int error = errno;
    if (!alive()) throw_gone(pid_);
    if (error == ENOENT) throw Error(Code::kNotFound, fmt::format("process {} has no file mapping {}", pid_, range));
    throw_errno(fmt::format("cannot open mapping {} of process {}", range, pid_), error);
  }
  const std::string path = own_link(handle.get());
  struct stat file {};
  if (::fstat(handle.get(), &file) != 0) throw_errno("cannot look at a mapping's file");
  if (!names_ram_file(path) || !S_ISREG(file.st_mode)) {
    throw Error(Code::kPermission, fmt::format("mapping {} of process {} is {}, no guest RAM", range, pid_, path));
  }
  // QEMU itself must hold it shared and writable: nobody gains rights through us that the guest's process lacks.
  const std::string maps = read_small(open("maps", O_RDONLY).get());
  if (!maps_shared_writable(maps, start, end, file.st_ino)) {
    throw Error(Code::kPermission, fmt::format("mapping {} of process {} is not shared and writable", range, pid_));
  }
  Fd out = Fd::open(fmt::format("/proc/self/fd/{}", handle.get()), flags);
  // A memfd is everybody's to write: who has it for reading, and a /proc, could open it again for writing.
  if (flags == O_RDONLY && ::fchmod(out.get(), (file.st_mode & S_IRWXU) | S_IROTH) != 0)
    throw_errno("cannot keep others from writing " + path);
  return out;
}

Fd QemuProcess::copy_fd(int number) const {
  if (number < 0) throw Error(Code::kInvalid, fmt::format("{} is no descriptor number", number));
  Fd copy = Fd::own(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd_.get(), number, 0)));
  if (!copy) {
    const int error = errno;
    if (error == ESRCH || !alive()) throw_gone(pid_);
    if (error == EBADF) throw Error(Code::kNotFound, fmt::format("process {} has no descriptor {}", pid_, number));
    throw_errno(fmt::format("cannot copy descriptor {} of process {}", number, pid_), error);
  }
  return copy;
}

// Number by number: the broker may not list folders.
std::vector<int> QemuProcess::find_fds(std::string_view text) const {
  std::vector<int> found;
  std::array<char, 64> seen;
  for (int number = 0; number < kNumbersMax; ++number) {
    const ssize_t n = ::readlinkat(folder_.get(), fmt::format("fd/{}", number).c_str(), seen.data(), seen.size());
    if (n >= 0 && std::string_view(seen.data(), static_cast<std::size_t>(n)) == text) found.push_back(number);
  }
  if (found.empty() && !alive()) throw_gone(pid_);
  return found;
}

int QemuProcess::find_fd(std::string_view text) const {
  const std::vector<int> found = find_fds(text);
  if (found.empty()) throw Error(Code::kNotFound, fmt::format("process {} has no {}", pid_, text));
  return found.front();
}

Fd QemuProcess::copy_uffd(int number) const {
  Fd copy = copy_fd(number);
  const std::string name = own_link(copy.get());
  if (name != kUffdLink) {
    throw Error(Code::kPermission, fmt::format("descriptor {} of process {} is {}, no userfaultfd", number, pid_, name));
  }
  return copy;
}

Fd open_uffd_device() {
  try {
    return Fd::open(kUffdDevice, O_RDWR);
  } catch (const Error& e) {
    if (e.code() != Code::kNotFound) throw;
    throw Error(
        Code::kUnsupported, "this host has no /dev/userfaultfd",
        "it takes Linux 6.1 or newer built with CONFIG_USERFAULTFD; in a container, add the device node (misc, minor in /proc/misc)");
  }
}

bool is_uffd_device(int fd) {
  struct stat there {};
  struct stat here {};
  return ::stat(kUffdDevice, &there) == 0 && ::fstat(fd, &here) == 0 && S_ISCHR(here.st_mode) && here.st_rdev == there.st_rdev;
}

}  // namespace mhv::broker
