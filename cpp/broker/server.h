// The socket of a privileged process: who may ask.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"

namespace mhv::protocol {
class BrokerRequest;
class BrokerReply;
}  // namespace mhv::protocol

namespace mhv::broker {

inline constexpr std::size_t kConnectionsMax = 64;
inline constexpr std::size_t kRequestBytesMax = 4096;

// The descriptors that go beside `reply`; throws Error where nothing was done. `what` is for the log. Called by several threads.
using Answer = std::function<std::vector<Fd>(const protocol::BrokerRequest& request, protocol::BrokerReply* reply, std::string* what)>;

// Listens on `path` and serves root and `user`, nobody else. One thread per connection. Only run() may be called
// while another thread is inside; the destructor closes what is left and removes the socket.
class Server {
 public:
  // Throws kExists when another process serves this socket.
  Server(std::string path, uid_t user, gid_t group, Answer answer);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Serves until `stop_fd` is readable.
  void run(int stop_fd);

 private:
  struct Connection {
    Fd socket;
    pid_t peer = 0;
    std::atomic<bool> ended{false};
    std::thread thread;
  };

  void accept_one();
  void forget_ended();
  void serve(Connection& connection);

  const std::string path_;
  const uid_t user_;
  const Answer answer_;
  Fd listener_;
  std::list<Connection> connections_;  // touched by the thread in run() alone
};

}  // namespace mhv::broker
