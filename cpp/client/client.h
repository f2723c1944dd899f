// Requests to mhvd over its unix socket: what mhvctl and the Python binding are written with.
#pragma once

#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "mhv.pb.h"

namespace mhv::client {

inline constexpr const char* kDefaultSocket = "/run/nova-mhv/mhvd.sock";

// Called on the calling thread; what it throws ends the call (mhvd finishes the request all the same).
using ProgressFn = std::function<void(const protocol::Progress&)>;

// Thread-safe: a call takes a connection that no other call uses, or makes one, so a long request blocks nobody.
// Nothing is sent before the first call, and a connection that mhvd closed is replaced.
class Client {
 public:
  explicit Client(std::string socket_path = kDefaultSocket);

  // Returns the reply that ends the request; `request.id` is filled in here. `fds` travel beside the request.
  // Throws the reply's error with its code, message and hint; kUnavailable when mhvd does not answer or ends in the
  // middle; kInvalid for a socket path that no socket address can hold.
  protocol::Reply call(protocol::Request request, const ProgressFn& progress = {}, std::span<const int> fds = {});

  const std::string& socket_path() const { return socket_path_; }

 private:
  Fd take_connection();
  void give_back(Fd connection);

  const std::string socket_path_;
  std::mutex mutex_;  // guards what follows
  std::vector<Fd> idle_;
  std::uint64_t next_id_ = 1;
};

// The exception that a reply's error stands for; an unknown code becomes kInternal.
Error error_of(const protocol::Error& error);

// "required", "best-effort" or "none"; throws kInvalid naming the three.
protocol::DiskPolicy parse_disk_policy(const std::string& text);
// Which automatic checkpoints stay: a number, or a policy, which mhvd checks (keep/policy.h). Throws kInvalid.
void set_keep(protocol::ServiceOptions& options, const std::string& text);
const char* disk_policy_name(protocol::DiskPolicy policy);

}  // namespace mhv::client
