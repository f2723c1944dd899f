// What a layer and the engine say to each other: messages in two rings of shared memory (ring/ring.h). This is the ABI that layers of
// third parties are built against: structures only grow at their end, types are only added, and kAbi counts what is not compatible.
//
//   engine -> layer      kHello, then per epoch kEpoch; kPacket, kEvent, kRequest, kBytes, kStop
//   layer -> engine      kReady, then per epoch kEpochDone; kVerdict, kEvent, kAlert, kAnswer, kAsk, kRead, kLog
//
//   kHello       JSON {"abi", "guest": uuid, "name", "layer", "configuration": {...}, "memory": [{"start", "bytes", "descriptor",
//                "offset"}]}: RAM by guest-physical address; where it is in a descriptor that is open for reading, or -1: ask by kRead
//   kReady       JSON {"abi", "name", "version"}
//   kEpoch       Epoch, then Vcpu[vcpus], then PageRange[written]: only what was claimed
//   kEpochDone   u64 number
//   kPacket      Packet, then its bytes                    kVerdict     Verdict, then the bytes in its place (bytes != 0)
//   kEvent       JSON {"kind", ...}: of another layer, or for them
//   kRequest     JSON {"method", "arguments"}              kAnswer      JSON {"result"} or {"error": {"code", "message", "hint"}}, same id
//   kRead        Read                                      kBytes       the bytes, same id; none: that is not RAM, or was not claimed
//   kAlert       JSON {"severity": "info"|"warning"|"critical", "title", "detail": {...}}
//   kAsk         JSON {"action": "checkpoint"|"pause"|"hold"|"release"|"rollback"|"stop", "reason", ["before_ns"]}
//   kLog         text
//
// A text longer than kPayloadMax comes in parts: all but the last have kMore, and all the same type and id. All integers are
// little-endian. Nothing that comes from the other side is believed: sizes, numbers and indices are checked on every use.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mhv::ring {

inline constexpr std::uint32_t kAbi = 1;
inline constexpr std::size_t kPayloadMax = 128 << 10;
inline constexpr std::size_t kTextMax = 3 << 20;  // of one text in parts
inline constexpr std::size_t kReadMax = 64 << 10;

enum class Type : std::uint16_t {
  kHello = 1,
  kEpoch = 2,
  kPacket = 3,
  kEvent = 4,
  kRequest = 5,
  kBytes = 6,
  kStop = 7,
  kReady = 64,
  kEpochDone = 65,
  kVerdict = 66,
  kAlert = 67,
  kAnswer = 68,
  kAsk = 69,
  kRead = 70,
  kLog = 71,
};

inline constexpr std::uint16_t kMore = 1;  // flag: this text goes on in the next message

// A processor of the guest at an epoch, as its device state says (Intel SDM volume 3, 2.5 and AMD APM volume 2, 3.2).
struct Vcpu {
  std::uint64_t rip = 0, rsp = 0, rflags = 0;
  std::uint64_t cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0, efer = 0;
  std::uint64_t star = 0, lstar = 0, cstar = 0, sfmask = 0;
  std::uint64_t gs_base = 0, kernel_gs_base = 0;
  std::uint64_t idt_base = 0, gdt_base = 0;
  std::uint32_t idt_limit = 0, gdt_limit = 0;
};
static_assert(sizeof(Vcpu) == 136 && offsetof(Vcpu, cr3) == 40 && offsetof(Vcpu, lstar) == 72);

struct PageRange {
  std::uint64_t start = 0, bytes = 0;  // guest-physical
};
static_assert(sizeof(PageRange) == 16);

struct Epoch {
  std::uint64_t number = 0;
  std::uint64_t time_ns = 0;      // CLOCK_REALTIME
  std::uint32_t paused = 0;       // 1: the guest stands still until kEpochDone, or the layer's budget is over
  std::uint32_t vcpus = 0;        // what follows
  std::uint32_t written = 0;      // ranges that follow
  std::uint32_t written_all = 0;  // 1: more was written than fits; take all of memory as written
};
static_assert(sizeof(Epoch) == 32);

enum class Direction : std::uint32_t { kFromGuest = 0, kToGuest = 1 };
struct Packet {
  std::uint64_t number = 0;
  std::uint32_t nic = 0;  // of the guest, from 0
  std::uint32_t direction = 0;
  std::uint32_t bytes = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(Packet) == 24);

enum class Decision : std::uint32_t { kPass = 0, kDrop = 1, kHold = 2, kReplace = 3 };
struct Verdict {
  std::uint64_t number = 0;  // of the packet; a held one is decided by a later verdict
  std::uint32_t decision = 0;
  std::uint32_t bytes = 0;
};
static_assert(sizeof(Verdict) == 16);

struct Read {
  std::uint64_t start = 0;  // guest-physical
  std::uint64_t bytes = 0;  // at most kReadMax
};
static_assert(sizeof(Read) == 16);

}  // namespace mhv::ring
