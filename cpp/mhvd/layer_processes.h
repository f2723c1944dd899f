// The processes of one guest's layers, and the users they run as.
#pragma once

#include <poll.h>

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "base/fd.h"
#include "mhv.pb.h"
#include "mhvd/config.h"
#include "mhvd/layer_registry.h"
#include "stack/layer_process.h"

namespace mhv::mhvd {

// Users of this host for layers alone: those that /etc/subuid grants to the user that this process runs as, each given once at a time.
// Thread-safe.
class LayerUsers {
 public:
  // Throws kUnsupported: it grants none, or all are in use.
  uid_t take();
  void give_back(uid_t user);

 private:
  std::mutex mutex_;
  std::set<uid_t> taken_;
};

// "name:first:count" lines, as useradd and usermod write them: the first range of that user; count 0: none.
struct SubordinateIds {
  uid_t first = 0;
  std::uint32_t count = 0;
};
SubordinateIds parse_subuid(const std::string& text, const std::string& user, uid_t uid);

// Starts a layer's program in its sandbox, to say how it is used; of one that runs in a service VM, the emulator. Throws kUnsupported: this
// host cannot isolate it.
void test_jail(const Config& config, LayerUsers& users, const LayerPackage& package);

// One thread at a time.
class LayerProcesses {
 public:
  LayerProcesses(const Config& config, LayerUsers& users) : config_(config), users_(users) {}
  ~LayerProcesses() { stop_all(); }

  // In place of a former one of that name. `fds`: its channel, then what it may read of its guest. Throws.
  void start(const LayerPackage& package, std::uint64_t generation, std::vector<Fd> fds);
  void stop(const std::string& name, std::uint64_t generation);
  void stop_all();

  // To be waited for.
  void add_to(std::vector<pollfd>& polled) const;
  // Those that have ended by themselves.
  std::vector<protocol::LayerEnded> ended();

 private:
  struct Running {
    std::uint64_t generation;
    uid_t user;
    std::unique_ptr<stack::LayerProcess> process;
  };
  void drop(std::map<std::string, Running>::iterator it);

  const Config& config_;
  LayerUsers& users_;
  std::map<std::string, Running> running_;
};

}  // namespace mhv::mhvd
