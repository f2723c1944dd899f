// A kernel's log, out of the ring in which it keeps it (kernel/printk/printk_ringbuffer.h, since Linux 5.10): descriptors with their
// states, what they say of a record, and texts, each between two positions of a ring of bytes.
//
//   state_var   of a descriptor: its number, and in the two highest bits its state; only "finalized" ones count
//   text block  [number of its descriptor, 8 bytes][text]; one that would go over the end is at the beginning instead
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "introspection/walk.h"

namespace mhv::introspection {

inline constexpr std::size_t kLogRecordsMax = 1u << 17;
inline constexpr std::size_t kLogBytesMax = 64u << 20;

struct LogRecord {
  std::uint64_t number = 0;
  std::uint64_t nanoseconds = 0;  // since the guest's start
  unsigned level = 0;             // 0: emergency ... 7: debug
  std::string text;
};

// Thread-safe. The Kernel outlives it.
class Log {
 public:
  // Throws kUnsupported: the kernel is older than 5.10.
  explicit Log(const Kernel& kernel);

  // The oldest is the first, the newest kLogRecordsMax of them. One that is overwritten meanwhile is left out. Throws kBusy.
  std::vector<LogRecord> list() const;

 private:
  struct Ring;
  Ring open(Walk& walk) const;
  std::optional<LogRecord> read(Walk& walk, const Ring& ring, std::uint64_t number, GuestVirt descriptor) const;
  std::optional<std::string> text(Walk& walk, const Ring& ring, std::uint64_t number, GuestVirt descriptor, std::size_t length) const;

  const Kernel& kernel_;
  GuestVirt ring_;
  std::uint32_t count_bits_, descriptors_, infos_, head_, tail_;  // in a printk_ringbuffer
  std::uint32_t size_bits_, data_;
  std::uint32_t state_, begin_, next_;               // in a prb_desc
  std::uint32_t number_, time_, length_, facility_;  // in a printk_info
  std::uint64_t descriptor_bytes_, info_bytes_;
};

}  // namespace mhv::introspection
