// One QEMU process, named so that it can never be mistaken for another, and what may be taken out of it.
//
// INVARIANT: a QemuProcess holds a pidfd and the process's /proc folder, both opened before the checks. Every later look goes
// through one of the two, so a pid that is used again meanwhile gives an error, never another process's data.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"

namespace mhv::broker {

// Whether a /proc/PID/exe link names a QEMU system emulator below /usr: "/usr/bin/qemu-system-x86_64", also with
// " (deleted)" behind it (the package was upgraded while the guest runs). Pure.
bool names_qemu(std::string_view exe_link);

// Whether the file behind a mapping may hold guest RAM: memfd, /dev/shm, hugepages, libvirt's memory backing folder. Pure.
bool names_ram_file(std::string_view link);

// Whether /proc/PID/maps has the mapping [start, end), shared and writable, of that inode. Pure.
bool maps_shared_writable(std::string_view maps, std::uint64_t start, std::uint64_t end, std::uint64_t inode);

// Thread-safe: nothing changes after the constructor.
class QemuProcess {
 public:
  // Throws kGone (no such process, or another start time) or kPermission (not a QEMU).
  QemuProcess(int pid, std::uint64_t start_time);
  // For a peer of a socket, whose start time nobody named.
  static QemuProcess of_peer(int pid);

  int pid() const { return pid_; }
  const Fd& pidfd() const { return pidfd_; }
  bool alive() const;

  // A file of the process's /proc folder: "maps", "pagemap", "mem".
  Fd open(const char* name, int flags) const;
  // The file behind the writable shared mapping [start, end). `flags`: O_RDWR or O_RDONLY. kNotFound: no such mapping. kPermission: not
  // RAM.
  Fd open_mapping(std::uint64_t start, std::uint64_t end, int flags) const;
  // A copy of descriptor `number` of the process. kNotFound: it has none of that number.
  Fd copy_fd(int number) const;
  // The lowest number of a descriptor that links to `text` ("anon_inode:kvm-vm"). kNotFound: it has none.
  int find_fd(std::string_view text) const;
  // All of them, in order; none when there is none.
  std::vector<int> find_fds(std::string_view text) const;
  // A copy, only for a userfaultfd.
  Fd copy_uffd(int number) const;

 private:
  explicit QemuProcess(int pid);
  void check_program() const;
  std::string link(const char* name) const;

  int pid_;
  Fd pidfd_;
  Fd folder_;  // /proc/PID
};

// Link text of one of this process's own descriptors ("anon_inode:[userfaultfd]").
std::string own_link(int fd);

// Opens /dev/userfaultfd; kUnsupported when there is none.
Fd open_uffd_device();
// Whether `fd` is an open /dev/userfaultfd.
bool is_uffd_device(int fd);

}  // namespace mhv::broker
