// The files of a store, byte by byte. All numbers are little endian; every length is capped before it is used.
//
//   lock                       locked (flock) by the process that has the store
//   FORMAT                     one line: "nova-mhv store <version>"
//   POSITION                   where the records copied by the last garbage collection end (PositionFile)
//   segments/NNNNNNNNNN.seg    SegmentHeader, then records, each on a multiple of 8 bytes:
//                                RecordHeader | payload (`stored` bytes) | zeros up to a multiple of 8
//   index/NNNNNNNNNN.idx       IndexHeader, then `count` IndexEntry: where the records of that segment are. Derived: left
//                              out or damaged, the segment is read instead
//   manifests/<uuid>.mhv       ManifestHeader | ManifestInfo (manifest.proto) | `entries` PageEntry, by page | XXH3-128
//
// Which records count: a manifest names the position its records stand before, POSITION does so for records that
// were moved. What stands behind the greatest of them was never committed and is cut off by open(). Damage before
// it is damage, and is reported as such.
//
// A checksum "of A, and B" is the XXH3-64 of B with that of A as its seed.
//
// Everything here is pure: bytes in, values out, Error (kCorrupt, kVersion) on anything else.
#pragma once

#include <bit>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "store/store.h"

namespace mhv::store {

static_assert(std::endian::native == std::endian::little, "the structures are written as they stand in memory");

inline constexpr std::uint32_t kFormatVersion = 1;
inline constexpr std::uint64_t kSegmentBytesMax = 127u << 20;  // offsets fit Location
inline constexpr std::uint32_t kSegmentNumberMax = (1u << 27) - 1;
inline constexpr std::uint32_t kInfoBytesMax = 4u << 20;
inline constexpr std::uint64_t kEntriesMax = 1u << 28;  // 1 TiB of RAM
inline constexpr std::size_t kDeviceStateBytesMax = 64u << 20;
inline constexpr std::size_t kBlocksMax = 256;
inline constexpr std::size_t kDisksMax = 256;

enum class Encoding : std::uint16_t { kRaw = 0, kLz4 = 1 };

struct SegmentHeader {
  char magic[8];  // "MHVSEG\r\n"
  std::uint32_t version;
  std::uint32_t number;    // as in the file's name
  std::uint64_t identity;  // random: ties an index file to this very segment
  std::uint64_t checksum;  // XXH3-64 of what stands before
};
static_assert(sizeof(SegmentHeader) == 32 && offsetof(SegmentHeader, checksum) == 24);

struct RecordHeader {
  std::uint32_t magic;  // kRecordMagic
  std::uint16_t encoding;
  std::uint16_t stored;  // bytes of payload: 4096 raw, fewer when compressed
  PageKey key;
  std::uint64_t checksum;  // of what stands before, and the payload
};
static_assert(sizeof(RecordHeader) == 32 && offsetof(RecordHeader, key) == 8 && offsetof(RecordHeader, checksum) == 24);
inline constexpr std::uint32_t kRecordMagic = 0x5056484d;  // "MHVP"
inline constexpr std::size_t kRecordBytesMax = sizeof(RecordHeader) + kPageSize;
constexpr std::size_t record_bytes(std::size_t stored) { return sizeof(RecordHeader) + ((stored + 7) & ~std::size_t{7}); }

struct IndexHeader {
  char magic[8];  // "MHVIDX\r\n"
  std::uint32_t version;
  std::uint32_t number;
  std::uint64_t identity;  // of the segment
  std::uint64_t covered;   // the entries are all the records of the first so many bytes
  std::uint64_t count;
  std::uint64_t checksum;  // of what stands before, and the entries
};
static_assert(sizeof(IndexHeader) == 48 && offsetof(IndexHeader, checksum) == 40);

struct IndexEntry {
  PageKey key;
  std::uint32_t offset;  // of the record in the segment
  std::uint16_t stored;
  std::uint16_t reserved;
};
static_assert(sizeof(IndexEntry) == 24 && offsetof(IndexEntry, offset) == 16);

struct ManifestHeader {
  char magic[8];  // "MHVMAN\r\n"
  std::uint32_t version;
  std::uint32_t info_bytes;     // <= kInfoBytesMax
  std::uint64_t entries;        // <= kEntriesMax
  std::uint64_t info_checksum;  // of what stands before, and the ManifestInfo: lets open() read no further
};
static_assert(sizeof(ManifestHeader) == 32 && offsetof(ManifestHeader, info_checksum) == 24);
static_assert(sizeof(PageEntry) == 20 && offsetof(PageEntry, key) == 4);
inline constexpr std::size_t kManifestTrailerBytes = 16;  // XXH3-128 of all the rest

// A place between records. Positions grow as long as the store lives.
struct Position {
  std::uint32_t segment = 0;
  std::uint64_t offset = 0;
  friend auto operator<=>(const Position&, const Position&) = default;
};

struct PositionFile {
  char magic[8];  // "MHVPOS\r\n"
  std::uint32_t version;
  std::uint32_t segment;
  std::uint64_t offset;
  std::uint64_t checksum;  // XXH3-64 of what stands before
};
static_assert(sizeof(PositionFile) == 32 && offsetof(PositionFile, checksum) == 24);

// ---- segments

std::vector<std::byte> serialize_segment_header(std::uint32_t number, std::uint64_t identity);
// The identity. Throws kCorrupt, kVersion.
std::uint64_t parse_segment_header(std::span<const std::byte> bytes, std::uint32_t number);

// Writes the record to `out` (record_bytes(payload.size()) bytes, which the caller has made room for).
void serialize_record(const PageKey& key, Encoding encoding, std::span<const std::byte> payload, std::byte* out);
struct Record {
  PageKey key;
  Encoding encoding;
  std::span<const std::byte> payload;
};
// nullopt: no whole, unaltered record stands at the head of `bytes`.
std::optional<Record> parse_record(std::span<const std::byte> bytes);

struct Scan {
  std::vector<IndexEntry> entries;
  std::uint64_t damaged_bytes = 0;  // stepped over to find the next record
};
// Every whole record in bytes [from, to) of a segment, given as a whole.
Scan scan_records(std::span<const std::byte> segment, std::uint64_t from, std::uint64_t to);

// ---- index files

std::vector<std::byte> serialize_index(std::uint32_t number, std::uint64_t identity, std::uint64_t covered,
                                       std::span<const IndexEntry> entries);
struct IndexFile {
  std::uint64_t covered = 0;
  std::vector<IndexEntry> entries;
};
// nullopt: of another segment or version, or damaged; it is to be made again.
std::optional<IndexFile> parse_index(std::span<const std::byte> bytes, std::uint32_t number, std::uint64_t identity);

// ---- manifests

struct ManifestHead {
  CheckpointInfo info;
  std::vector<PageKey> device_state;
  std::uint64_t sequence = 0;
  Position end;
};
struct Manifest : ManifestHead {
  std::vector<PageEntry> entries;
};
std::vector<std::byte> serialize_manifest(const ManifestHead& head, std::span<const PageEntry> entries);
// How many bytes parse_manifest_head() needs; `bytes` are the first sizeof(ManifestHeader), or fewer in a torn file.
std::size_t manifest_head_bytes(std::span<const std::byte> bytes);
// `file_bytes`: length of the whole file.
ManifestHead parse_manifest_head(std::span<const std::byte> bytes, std::uint64_t file_bytes);
Manifest parse_manifest(std::span<const std::byte> bytes);

// ---- the rest

std::vector<std::byte> serialize_position(const Position& position);
Position parse_position(std::span<const std::byte> bytes);
std::string format_line();
void check_format_line(std::string_view text);  // throws kVersion, kCorrupt

// A canonical UUID in lower case: what a checkpoint's id, and so its file's name, has to be.
bool is_uuid(std::string_view text);
// Pages of all blocks together.
std::uint64_t pages_of(std::span<const BlockInfo> blocks);

}  // namespace mhv::store
