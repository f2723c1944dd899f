// The one packet path: what a guest sends (or, on the other descriptor of an interposition, what is sent to it) goes through
// the filters of its layers, in order, and out again.
//
// A packet here is a virtio_net_hdr of 10 bytes and an Ethernet frame, of up to 64 KiB where the guest lets its device segment. Packets
// leave in the order they came; one that waits holds back those behind it. What is not written to the tap again goes nowhere:
// when this process ends or stands still, nothing leaks (net/tap_swap.h).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "base/fd.h"

namespace mhv::net {

inline constexpr std::size_t kPacketMax = 64u * 1024 + 64;  // a GSO packet, its Ethernet header with tags, the virtio_net_hdr
inline constexpr std::size_t kPacketHeader = 10;
inline constexpr std::size_t kFiltersMax = 32;

enum class Verdict : std::uint8_t {
  kPass,
  kDrop,
  kHold,     // on to the next filter, but not out before this filter's release()
  kReplace,  // `packet` goes on in its place
};

struct Decision {
  Verdict verdict = Verdict::kPass;
  std::vector<std::byte> packet = {};
};

// Packets are counted as they come, from 1.
struct PacketNo {
  std::uint64_t value = 0;
  friend auto operator<=>(PacketNo, PacketNo) = default;
};

struct FilterId {
  std::uint64_t value = 0;
  friend auto operator<=>(FilterId, FilterId) = default;
};

class PacketFilter {
 public:
  virtual ~PacketFilter() = default;
  // nullopt: PacketPath::answer() will say so, before the deadline. Called with the path locked, by whichever of its callers: it must not
  // wait for anything, nor call the path. `packet` is gone afterwards.
  virtual std::optional<Decision> ask(PacketNo number, std::span<const std::byte> packet) = 0;
};

enum class WhenLate : std::uint8_t { kFailOpen, kFailClosed };  // as if it had said pass, or drop

struct FilterOptions {
  std::chrono::microseconds deadline{1000};
  WhenLate when_late = WhenLate::kFailClosed;
};

struct FilterCounters {
  std::uint64_t asked = 0;
  std::uint64_t passed = 0;
  std::uint64_t dropped = 0;
  std::uint64_t held = 0;
  std::uint64_t replaced = 0;
  std::uint64_t late = 0;  // its answer was its policy's
};

struct PathCounters {
  std::uint64_t in = 0;
  std::uint64_t in_bytes = 0;
  std::uint64_t out = 0;
  std::uint64_t out_bytes = 0;
  std::uint64_t dropped = 0;   // by filters, and by the policy for those that are late or gone
  std::uint64_t overflow = 0;  // came while the queue was full
  std::uint64_t refused = 0;   // by the kernel, when they were written
  std::uint64_t queued = 0;    // now
  std::uint64_t queued_bytes = 0;
  bool ended = false;  // the tap is gone: the interposition was undone
};

struct PathLimits {
  std::size_t packets = 16'384;
  std::size_t bytes = 64u << 20;
};

// Thread-safe; owns one thread, from start() on. Filters are asked and packets written by whoever causes it: that thread, or a caller of
// answer(), release(), mark(), detach().
class PacketPath {
 public:
  explicit PacketPath(Fd tap, PathLimits limits = {});
  ~PacketPath();  // what is queued goes nowhere
  // Before it, nothing is read: a filter that is attached by then is asked about every packet. Once.
  void start();
  PacketPath(const PacketPath&) = delete;
  PacketPath& operator=(const PacketPath&) = delete;

  // Asked after the first `position` filters, about what has not come as far yet. `filter` has to outlive its detach().
  FilterId attach(PacketFilter& filter, const FilterOptions& options, std::size_t position);
  // Not asked again once this returns. What it holds or has not answered goes on (kFailOpen) or is dropped.
  void detach(FilterId id, WhenLate policy);

  // For a packet that ask() left open, or one that this filter holds: kPass and kDrop. False: it came too late, or nobody had asked.
  bool answer(FilterId id, PacketNo number, Decision decision);

  // Takes in all that was sent until now, and returns its last: of an epoch, when it is called after QEMU's answer to `stop`. Of a guest
  // that goes on sending, some more.
  PacketNo mark();
  // Whatever of the packets up to `last` this filter holds, or will yet say to hold, may go out.
  void release(FilterId id, PacketNo last);

  PathCounters counters() const;
  FilterCounters counters(FilterId id) const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Filter {
    FilterId id;
    PacketFilter* filter;
    FilterOptions options;
    std::uint32_t bit;
    PacketNo released = {};
    FilterCounters counters = {};
    std::deque<PacketNo> open = {};  // asked and maybe not answered, in order
  };
  // INVARIANT: of two packets in the queue the older one is at the same stage or further on.
  struct Packet {
    std::vector<std::byte> own;
    std::span<const std::byte> bytes;  // `own`, or what was just read
    std::size_t stage = 0;             // the filter that is asked next, or now
    bool open = false;                 // asked
    std::optional<Decision> decided = {};
    std::uint32_t held_by = 0;
    Clock::time_point deadline = {};
    bool dropped = false;
  };

  std::unique_lock<std::mutex> enter() const;
  void serve();
  bool take_in(std::size_t packets_max);
  void take(std::span<const std::byte> bytes);
  void advance(Packet& packet, PacketNo number, std::size_t limit);
  void ask(Filter& filter, Packet& packet, PacketNo number);
  void settle(Filter& filter, Packet& packet, PacketNo number, Decision decision);
  void drop(Packet& packet);
  void advance_from(std::size_t index, bool all = false);
  void flush();
  void write_out(std::span<const std::byte> bytes);
  void expire(Clock::time_point now);
  std::optional<Clock::time_point> next_deadline();
  void wake_if_earlier();
  Filter* find(FilterId id);
  bool decide(Filter& filter, Packet& packet, Decision decision);
  PacketNo number_of(std::size_t index) const { return {first_.value + index}; }
  Packet* queued(PacketNo number);

  const Fd tap_;
  const Fd wake_;
  const PathLimits limits_;
  mutable std::mutex gate_;  // taken before mutex_, only while waiting for that: under a flood, the path's thread would not let go
  mutable std::mutex mutex_;
  std::vector<std::byte> buffer_;
  std::vector<std::unique_ptr<Filter>> filters_;
  std::deque<Packet> queue_;
  PacketNo first_{1};  // number of the queue's first packet, or of the next one
  std::size_t queued_bytes_ = 0;
  std::uint64_t last_filter_ = 0;
  PathCounters counters_;
  Clock::time_point sleeping_until_ = Clock::time_point::max();
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace mhv::net
