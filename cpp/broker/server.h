// The broker's socket: who may ask, what is answered.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <list>
#include <mutex>
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

// Listens on <run_dir>/broker.sock and serves root and `user`, nobody else. One thread per connection. Only run() may be called
// while another thread is inside; the destructor closes what is left and removes the socket.
class Server {
 public:
  // Throws kExists when another broker serves this folder.
  Server(std::string run_dir, uid_t user, gid_t group);
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
  std::vector<Fd> answer(const protocol::BrokerRequest& request, protocol::BrokerReply* reply, std::string* what);

  const std::string run_dir_;
  const std::string path_;
  const uid_t user_;
  Fd listener_;
  std::list<Connection> connections_;  // touched by the thread in run() alone
  std::mutex injecting_;               // a thread can be traced once at a time
};

}  // namespace mhv::broker
