// For tests of both sides of a channel.
#pragma once

#include <boost/interprocess/mapped_region.hpp>
#include <cstring>
#include <utility>

#include "ring/ring.h"
#include "ring/ring_sys.h"

namespace mhv::ring::testing {

// Fails a test that would wait for ever.
inline std::chrono::steady_clock::time_point patience() { return std::chrono::steady_clock::now() + std::chrono::seconds(60); }

struct Pair {
  Channel engine, layer;
  explicit Pair(NewChannel channel = make_channel())
      : engine(std::move(channel.engine), Side::kEngine), layer(std::move(channel.layer), Side::kLayer) {}
};

// A peer that writes what it likes, where the head of ring.h says that things are.
class Forger {
 public:
  explicit Forger(const Fd& memory) : region_(map_shared(memory, kChannelBytes)) {}

  static constexpr std::size_t kToLayer = 64, kToEngine = 256;  // the indices of a ring
  static constexpr std::size_t kProduced = 0, kConsumed = 64, kSleeps = 128;
  static constexpr std::size_t kBytesToLayer = 4096, kBytesToEngine = 4096 + kRingBytes;

  template <typename T>
  void put(std::size_t at, T value) {
    std::memcpy(bytes() + at, &value, sizeof value);
  }
  void put_record(std::size_t at, std::uint32_t payload_bytes, std::uint16_t type, std::uint16_t flags, std::uint64_t id) {
    put(at, payload_bytes);
    put(at + 4, type);
    put(at + 6, flags);
    put(at + 8, id);
  }
  std::byte* bytes() { return static_cast<std::byte*>(region_.get_address()); }

 private:
  boost::interprocess::mapped_region region_;
};

}  // namespace mhv::ring::testing
