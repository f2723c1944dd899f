// What a guest sends, and what is sent to it, by way of those of its layers that claim its network: the worker's end of the packet path.
//
//   eq0 of each tap  ->  filter of layer 1  ->  filter of layer 2  ->  eq0        what the guest sends
//   eq1 of each tap  ->  filter of layer 1  ->  filter of layer 2  ->  eq1        what is sent to it
//
// INVARIANT: from configure() on, each of those layers has a filter in each path, whether it runs or not, and nothing is read before it
// has. Without a layer that runs, is ready and has room, its policy decides. A layer that starts or ends gets another filter, which is
// there before the former one goes.
//
// INVARIANT: no path waits for a layer: what a layer is asked, it answers later (verdict()), or its budget is over.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/fd.h"
#include "mhv.pb.h"
#include "net/packet_path.h"
#include "stack/running_layer.h"

namespace mhv::worker {

// Thread-safe. Lock order: mutex_, a path's, a running layer's. No layer ends with any of them held: whoever is its last owner joins its
// thread, which may wait for them.
class PacketWork {
 public:
  struct Counts {
    std::uint64_t packets = 0, dropped = 0, late = 0;
  };

  PacketWork();
  ~PacketWork();  // what is queued goes nowhere

  // The layers of the guest, in the order of the stack.
  void configure(const std::vector<stack::Charter>& stack);
  void layer_up(const std::string& name, const std::shared_ptr<stack::RunningLayer>& running);
  // What it holds or has not answered is decided by its policy. Its owner keeps it until this has returned.
  void layer_down(const std::string& name);
  void verdict(stack::PacketVerdict said);

  // Descriptors as `taps` numbers them. A tap that is there already is the former engine's no more.
  void change_taps(const protocol::WorkerTaps& taps, std::vector<Fd> fds);
  // What is queued goes on, or is dropped, by the policies of those that it waits for.
  void remove_all_taps();

  Counts counts(const std::string& layer) const;

 private:
  class Filter;
  struct Slot {
    stack::Charter charter;
    std::unique_ptr<Filter> filter;
    net::FilterId id;
  };
  // One direction of one tap.
  struct Path {
    std::string tap;
    std::uint32_t nic = 0;
    ring::Direction direction{};
    std::vector<Slot> slots;  // as in the path, which asks them until it ends
    std::unique_ptr<net::PacketPath> path;
  };
  enum class Queued { kByPolicy, kDropped };
  struct Route {
    net::PacketPath* path;
    net::FilterId id;
  };
  using Retired = std::vector<std::unique_ptr<Filter>>;

  Slot attach(Path& path, const stack::Charter& charter, std::shared_ptr<stack::RunningLayer> running, std::size_t position);
  void detach(Path& path, std::size_t position, Retired& retired);
  void replace(const std::string& name, const std::shared_ptr<stack::RunningLayer>& running);
  void arrange(Path& path, Retired& retired);
  void add(const protocol::WorkerTap& tap, ring::Direction direction, Fd fd, Retired& retired);
  void shut(Path& path, Retired& retired);
  void remove(const std::string& tap, Queued queued, Retired& retired);
  void count(const Path& path, const Slot& slot, Counts& into) const;

  mutable std::mutex mutex_;
  std::vector<stack::Charter> stack_;  // those that claim the network
  std::vector<std::unique_ptr<Path>> paths_;
  std::map<std::string, std::shared_ptr<stack::RunningLayer>> running_;
  std::map<std::uint64_t, Route> routes_;  // by the number of a filter, which PacketToken names as the path
  std::uint64_t last_filter_ = 0;
  std::map<std::string, Counts> past_;  // of filters that are no more
};

}  // namespace mhv::worker
