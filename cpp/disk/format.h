// The files of a journal, byte by byte. All numbers are little endian; every length is capped before it is used.
//
//   INDEX        IndexHeader | `words` u64, the history as of `position` (history.h) | nothing. Replaced as a whole.
//   log-<hex>    a segment, `segment_blocks` blocks long: chunks of 128 blocks
//   new          a segment or an index that is not finished; deleted at the next open
//
// A chunk is one descriptor and 127 slots of 4 KiB:
//
//   +0      ChunkHeader     32 bytes
//   +32*i   Entry i         i = 1..127; what entry i says of a block's content stands in slot i
//   +4096*i slot i
//
// Entries are appended one by one, each after its slot. They count up to the first that does not prove right. The log goes on
// in the next chunk when that one's header says how many entries were found in this one: so a hole ends the log, and what a
// power loss left behind the hole cannot come back.
//
// An entry is proved by its checksum, which covers the journal's random id, the place, the incarnation, the entry and its slot.
// A segment that is used again therefore needs no erasing, and a guest cannot write a block that looks like an entry (a
// descriptor never stands where a slot can be).
//
// Everything here is pure: bytes in, values out.
#pragma once

#include <array>
#include <bit>
#include <optional>
#include <span>
#include <string>

#include "disk/types.h"

namespace mhv::disk {

static_assert(std::endian::native == std::endian::little, "the structures are written as they stand in memory");

inline constexpr std::uint32_t kChunkBlocks = 128;
inline constexpr std::uint32_t kChunkEntries = kChunkBlocks - 1;
inline constexpr std::uint32_t kChunkMagic = 0x4364684d;           // "MhdC"
inline constexpr std::uint64_t kIndexMagic = 0x3158444964684d4dU;  // "MMhdIDX1"
inline constexpr std::uint16_t kFormatVersion = 1;
inline constexpr std::uint64_t kIndexWordsMax = std::uint64_t{1} << 32;

struct ChunkHeader {
  std::uint32_t magic = kChunkMagic;
  std::uint16_t version = kFormatVersion;
  std::uint16_t zero = 0;
  std::uint64_t incarnation = 0;       // one more at every open
  std::uint32_t previous_entries = 0;  // in the chunk before this one in the log
  std::uint32_t zero2 = 0;
  std::uint64_t checksum = 0;
};
static_assert(sizeof(ChunkHeader) == 32);

enum class Kind : std::uint32_t {
  kData = 1,      // a: block. The slot holds its content
  kZero = 2,      // a: first block, count: how many. They read as zeros
  kMark = 3,      // a, b: its name. An epoch ends
  kRollback = 4,  // a, b: the mark's name
  kDrop = 5,      // a, b: the mark's name
  kMove = 6,      // a: block, b: the slot its version stood in until now. The slot holds a copy
};

struct Entry {
  Kind kind = Kind::kData;
  std::uint32_t count = 0;
  std::uint64_t a = 0;
  std::uint64_t b = 0;
  std::uint64_t checksum = 0;
  bool has_content() const { return kind == Kind::kData || kind == Kind::kMove; }
};
static_assert(sizeof(Entry) == 32);

struct IndexHeader {
  std::uint64_t magic = kIndexMagic;
  std::uint32_t version = kFormatVersion;
  std::uint32_t segment_blocks = 0;
  std::uint64_t journal = 0;  // random
  std::uint64_t incarnation = 0;
  std::uint64_t disk_bytes = 0;
  std::uint64_t position = 0;  // the chunk with which the log goes on, in blocks
  std::uint32_t previous_entries = 0;
  std::uint32_t zero = 0;
  std::uint64_t words = 0;
  std::uint64_t words_checksum = 0;
  std::uint64_t checksum = 0;
};
static_assert(sizeof(IndexHeader) == 80);

// What makes a place in a log unlike any other.
struct ChunkPlace {
  std::uint64_t journal = 0;
  std::uint64_t position = 0;  // of the descriptor, in blocks from the log's beginning
};

using Descriptor = std::span<const std::byte, kBlockBytes>;

void seal(ChunkHeader& header, const ChunkPlace& place);
void seal(Entry& entry, const ChunkHeader& header, std::uint32_t number, std::span<const std::byte> content);
void seal(IndexHeader& header, std::span<const std::uint64_t> words);

// nullopt: no chunk of this log stands here.
std::optional<ChunkHeader> parse_chunk(Descriptor bytes, const ChunkPlace& place);
// Entry `number` (1 to kChunkEntries) as it stands there, unproved.
Entry load_entry(Descriptor bytes, std::uint32_t number);
// Whether the entry and its slot are whole; `content` is ignored when the kind has none.
bool proves(const Entry& entry, const ChunkHeader& header, std::uint32_t number, std::span<const std::byte> content);
// The header of a whole INDEX file of `file_bytes`. Throws kCorrupt, kVersion.
IndexHeader parse_index_header(std::span<const std::byte> bytes, std::uint64_t file_bytes);
bool proves(const IndexHeader& header, std::span<const std::uint64_t> words);

std::string segment_name(std::uint64_t number);
std::optional<std::uint64_t> parse_segment_name(const std::string& name);

}  // namespace mhv::disk
