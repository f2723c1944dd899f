#include "jail/identity_sys.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <span>
#include <string>

#include "base/error.h"
#include "base/fd.h"
#include "jail/subordinate.h"

namespace mhv::jail {
namespace {

void write_map(pid_t process, const char* name, std::uint32_t id) {
  const Fd file = Fd::open("/proc/" + std::to_string(process) + "/" + name, O_WRONLY);
  const std::string line = std::to_string(kInnerId) + " " + std::to_string(id) + " 1\n";
  write_all(file.get(), std::as_bytes(std::span(line)), name);
}

// Debian's package uidmap.
void run_mapper(const char* program, pid_t process, std::uint32_t id) {
  std::array<std::string, 5> words = {program, std::to_string(process), std::to_string(kInnerId), std::to_string(id), "1"};
  std::array<char*, 6> argv{};
  for (std::size_t i = 0; i < words.size(); ++i) argv[i] = words[i].data();
  std::array<char*, 1> no_environment{};
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, program, nullptr, nullptr, argv.data(), no_environment.data());
  if (error != 0) throw Error(Code::kUnsupported, std::string("cannot run ") + program + ": " + std::strerror(error), "install uidmap");
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (status != 0) {
    throw Error(Code::kPermission, std::string(program) + " did not map user id " + std::to_string(id),
                "its own message is above; mhvd's service needs NoNewPrivileges=no and the bounding set of etc/systemd/mhvd.service");
  }
}

}  // namespace

void map_identity(pid_t process, std::uint32_t id) {
  if (::geteuid() == 0) {
    write_map(process, "gid_map", id);
    write_map(process, "uid_map", id);
    return;
  }
  const IdRange range = own_subordinates();
  if (!range.contains(id)) {
    throw Error(Code::kPermission, "user id " + std::to_string(id) + " is not this user's to give to a layer",
                "its range is " + std::to_string(range.first) + " to " + std::to_string(range.first + range.count - 1));
  }
  run_mapper("/usr/bin/newgidmap", process, id);
  run_mapper("/usr/bin/newuidmap", process, id);
}

void take_identity() {
  if (::setgroups(0, nullptr) != 0) throw_errno("cannot leave the groups");
  if (::setresgid(kInnerId, kInnerId, kInnerId) != 0) throw_errno("cannot take the layer's group");
  if (::setresuid(kInnerId, kInnerId, kInnerId) != 0) throw_errno("cannot take the layer's user");
}

void drop_capabilities() {
  constexpr unsigned long kLocked = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED |
                                    SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
  if (::prctl(PR_SET_SECUREBITS, kLocked, 0, 0, 0) != 0) throw_errno("cannot lock the securebits");
  for (unsigned long capability = 0; ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
    if (::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) throw_errno("cannot drop a capability from the bounding set");
  }
  __user_cap_header_struct head{_LINUX_CAPABILITY_VERSION_3, 0};
  const std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> none{};
  if (::syscall(SYS_capset, &head, none.data()) != 0) throw_errno("cannot drop the capabilities");
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) throw_errno("cannot forbid new privileges");
}

}  // namespace mhv::jail
