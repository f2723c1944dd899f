// mhvd's socket: who may speak, one thread a connection, requests one after the other on each.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "mhv.pb.h"
#include "mhvd/guest.h"

namespace mhv::mhvd {

inline constexpr std::size_t kConnectionsMax = 64;
inline constexpr const char* kGroup = "nova-mhv";

struct Peer {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  // supplementary, when it connected
};
Peer peer_of(const Fd& connection);
// root, our own user, and members of the group `allowed` (-1: there is no such group).
bool may_speak(const Peer& peer, uid_t own, gid_t allowed);

// The reply that ends a request, without an id; throws mhv::Error. Called by many threads.
using Handler = std::function<protocol::Reply(const protocol::Request&, std::span<const int> fds, const ReplyFn& progress)>;

// Thread-safe.
class Server {
 public:
  // Replaces a socket that a former mhvd left behind (the caller holds the lock that shows it is gone).
  Server(const std::string& path, Handler handler);
  ~Server();  // ends all connections and waits for the requests under way
  void stop();

 private:
  struct Connection {
    Fd socket;
    std::thread thread;
    bool ended = false;
  };
  void accept_all();
  void serve(Connection& connection);
  bool serve_one(int socket);
  void join_ended();

  const std::string path_;
  const Handler handler_;
  Fd listener_;
  std::mutex mutex_;  // guards what follows
  std::list<Connection> connections_;
  bool stopping_ = false;
  std::thread acceptor_;
};

}  // namespace mhv::mhvd
