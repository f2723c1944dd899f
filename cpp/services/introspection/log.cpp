#include "introspection/log.h"

#include <algorithm>

namespace mhv::introspection {
namespace {

constexpr unsigned kStateShift = 62;
constexpr std::uint64_t kNumberBits = (std::uint64_t{1} << kStateShift) - 1, kFinalized = 2;
constexpr std::uint32_t kCountBitsMax = 24, kSizeBitsMax = 31;
constexpr std::uint64_t kNoText = 1;  // in a position

std::uint64_t size_of(const Kernel& kernel, std::string_view structure) {
  const auto type = kernel.types().find(structure);
  const std::uint64_t bytes = type ? kernel.types().size_of(*type) : 0;
  if (bytes != 0) return bytes;
  throw Error(Code::kUnsupported, "the guest's kernel has no " + std::string(structure) + ": " + kernel.banner(),
              "its log is read since Linux 5.10");
}

}  // namespace

// What stays the same while the kernel runs.
struct Log::Ring {
  GuestVirt descriptors, infos, data;
  std::uint64_t count = 0, bytes = 0;
};

Log::Log(const Kernel& kernel)
    : kernel_(kernel),
      ring_(kernel.symbol("prb")),
      count_bits_(kernel.offset("printk_ringbuffer", "desc_ring.count_bits")),
      descriptors_(kernel.offset("printk_ringbuffer", "desc_ring.descs")),
      infos_(kernel.offset("printk_ringbuffer", "desc_ring.infos")),
      head_(kernel.offset("printk_ringbuffer", "desc_ring.head_id")),
      tail_(kernel.offset("printk_ringbuffer", "desc_ring.tail_id")),
      size_bits_(kernel.offset("printk_ringbuffer", "text_data_ring.size_bits")),
      data_(kernel.offset("printk_ringbuffer", "text_data_ring.data")),
      state_(kernel.offset("prb_desc", "state_var")),
      begin_(kernel.offset("prb_desc", "text_blk_lpos.begin")),
      next_(kernel.offset("prb_desc", "text_blk_lpos.next")),
      number_(kernel.offset("printk_info", "seq")),
      time_(kernel.offset("printk_info", "ts_nsec")),
      length_(kernel.offset("printk_info", "text_len")),
      facility_(kernel.offset("printk_info", "facility")),
      descriptor_bytes_(size_of(kernel, "prb_desc")),
      info_bytes_(size_of(kernel, "printk_info")) {}

Log::Ring Log::open(Walk& walk) const {
  const auto at = walk.get<GuestVirt>(ring_);
  const auto count_bits = walk.get<std::uint32_t>(at + count_bits_), size_bits = walk.get<std::uint32_t>(at + size_bits_);
  if (count_bits > kCountBitsMax || size_bits > kSizeBitsMax) throw Torn();
  return {walk.get<GuestVirt>(at + descriptors_), walk.get<GuestVirt>(at + infos_), walk.get<GuestVirt>(at + data_),
          std::uint64_t{1} << count_bits, std::uint64_t{1} << size_bits};
}

std::optional<std::string> Log::text(Walk& walk, const Ring& ring, std::uint64_t number, GuestVirt descriptor, std::size_t length) const {
  const auto begin = walk.get<std::uint64_t>(descriptor + begin_), next = walk.get<std::uint64_t>(descriptor + next_);
  if ((begin & kNoText) != 0 || (next & kNoText) != 0) return "";
  std::uint64_t at = begin % ring.bytes, bytes = next - begin;
  if (begin / ring.bytes != next / ring.bytes && next % ring.bytes != 0) {
    at = 0;
    bytes = next % ring.bytes;
  }
  if (bytes < sizeof number || bytes > ring.bytes - at || walk.get<std::uint64_t>(ring.data + at) != number) return std::nullopt;
  std::string out(std::min<std::uint64_t>(length, bytes - sizeof number), '\0');
  walk.read(ring.data + at + sizeof number, std::as_writable_bytes(std::span(out)));
  return out;
}

std::optional<LogRecord> Log::read(Walk& walk, const Ring& ring, std::uint64_t number, GuestVirt descriptor) const {
  const GuestVirt info = ring.infos + number % ring.count * info_bytes_;
  LogRecord out;
  out.number = walk.get<std::uint64_t>(info + number_);
  out.nanoseconds = walk.get<std::uint64_t>(info + time_);
  out.level = walk.get<std::uint8_t>(info + facility_ + 1) >> 5;  // "u8 flags:5, level:3" behind the facility
  auto words = text(walk, ring, number, descriptor, walk.get<std::uint16_t>(info + length_));
  if (!words) return std::nullopt;
  out.text = std::move(*words);
  return out;
}

std::vector<LogRecord> Log::list() const {
  Walk walk(kernel_);
  return walk.again("log", [&] {
    const Ring ring = open(walk);
    const auto at = walk.get<GuestVirt>(ring_);
    const std::uint64_t head = walk.get<std::uint64_t>(at + head_), tail = walk.get<std::uint64_t>(at + tail_);
    const std::uint64_t count = ((head - tail) & kNumberBits) + 1;
    if (count > ring.count) throw Torn();
    std::vector<LogRecord> out;
    std::size_t bytes = 0;
    for (std::uint64_t i = count - std::min<std::uint64_t>(count, kLogRecordsMax); i < count; ++i) {
      const std::uint64_t number = (tail + i) & kNumberBits;
      const GuestVirt descriptor = ring.descriptors + number % ring.count * descriptor_bytes_;
      if (walk.get<std::uint64_t>(descriptor + state_) != (number | kFinalized << kStateShift)) continue;
      walk.row();
      auto record = read(walk, ring, number, descriptor);
      if (!record) continue;
      bytes += record->text.size();
      out.push_back(std::move(*record));
      if (bytes > kLogBytesMax) throw Torn();
    }
    return out;
  });
}

}  // namespace mhv::introspection
