// The client's side of mhv-broker and of mhv-tapper: what an unprivileged process asks the privileged ones for.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"

namespace mhv::protocol {
class BrokerRequest;
class BrokerReply;
class ClockMoment;
class KeptClock;
}  // namespace mhv::protocol

namespace mhv {

// One of the two. Connects on the first call, and again when it was restarted. Thread-safe: one request at a time.
class PrivilegedSocket {
 public:
  PrivilegedSocket(std::string program, std::string path) : program_(std::move(program)), path_(std::move(path)) {}
  // The answer, and `fds` descriptors beside it. `repeat`: once more when the connection breaks before the answer.
  std::vector<Fd> call(const protocol::BrokerRequest& request, std::size_t fds, protocol::BrokerReply* reply, bool repeat = true);

 private:
  void connect();

  const std::string program_;
  const std::string path_;
  std::mutex mutex_;
  Fd socket_;  // guarded by mutex_
};

// Connects on the first call, and again when the broker was restarted. Thread-safe: one request at a time.
// Every call throws Error: the broker's own answer, or kUnavailable when the broker does not answer.
// `pid` and `start_time` (field 22 of /proc/PID/stat) name one process for ever.
class BrokerClient {
 public:
  // Descriptors of one QEMU; they keep working in a process without privileges, and never name another process.
  struct GuestFds {
    Fd pidfd;
    Fd maps;
    Fd pagemap;
    Fd mem;  // read-write
  };
  struct Injected {
    Fd uffd;                     // non-blocking, close-on-exec, belongs to QEMU's memory
    int number = -1;             // inside QEMU, for a later take_uffd
    std::uint32_t attempts = 0;  // how often QEMU's main thread had to be stopped
  };

  explicit BrokerClient(std::string socket_path) : broker_("mhv-broker", std::move(socket_path)) {}

  Fd uffd_device();  // /dev/userfaultfd; kUnsupported when this kernel has none
  GuestFds open_guest(int pid, std::uint64_t start_time);
  // The file behind the shared, writable mapping [start, end) of guest RAM.
  Fd open_mapping(int pid, std::uint64_t start_time, std::uint64_t start, std::uint64_t end, bool read_only = false);
  // `device_fd`: number inside QEMU of a /dev/userfaultfd handed to it (add-fd). Not repeated when the broker dies in the
  // middle (kUnavailable): the caller may call again, QEMU then keeps one unused descriptor more.
  Injected inject_uffd(int pid, std::uint64_t start_time, int device_fd);
  Fd take_uffd(int pid, std::uint64_t start_time, int number);
  // QEMU's own monitor, a socket directly in <run-dir>/qmp/.
  Fd connect_monitor(const std::string& path);
  // Gives a KVM guest's clock back what it lost since `since`, `lost_ns_max` at most (broker/inject.h). kNotFound: it is not on KVM.
  protocol::KeptClock keep_clock(int pid, std::uint64_t start_time, const protocol::ClockMoment& since, std::uint64_t lost_ns_max);
  bool ping() noexcept;

 private:
  std::vector<Fd> call(const protocol::BrokerRequest& request, std::size_t fds, protocol::BrokerReply* reply, bool repeat = true) {
    return broker_.call(request, fds, reply, repeat);
  }

  PrivilegedSocket broker_;
};

// Thread-safe: one request at a time. Errors as of BrokerClient.
class TapperClient {
 public:
  explicit TapperClient(std::string socket_path) : tapper_("mhv-tapper", std::move(socket_path)) {}

  // The descriptors for PacketPath: what the guest sends at `tap`, and with `inbound` what comes to it (net/tap_swap.h). Asked again by
  // a new engine, which gets the same taps. kPermission: the tap is not of that QEMU. kBusy: another engine lives.
  std::vector<Fd> interpose(int pid, std::uint64_t start_time, const std::string& tap, bool inbound = false);
  // Also for a process that has ended; nothing happens where nothing is interposed.
  void undo_interpose(int pid, std::uint64_t start_time, const std::string& tap);

 private:
  PrivilegedSocket tapper_;
};

}  // namespace mhv
