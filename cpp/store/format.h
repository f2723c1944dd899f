// The files of a store, byte by byte. All numbers are little endian; every length is capped before it is used.
//
//   lock                       locked (flock) by the process that has the store
//   FORMAT                     one line: "nova-mhv store 2"; of an encrypted store (sealing.h):
//                              "nova-mhv store 3 aes-256-gcm SALT CHECK SUM", 32, 32 and 16 hexadecimal digits: the salt of all its keys,
//                              what tells a wrong key, and the XXH3-64 of the line before it
//   CATALOG                    CatalogHeader | Catalog (manifest.proto), and the same once more: the tree of checkpoints at one
//                              position of the log. Replaced now and then; what was committed since is read from the log.
//                              Encrypted: CatalogHeader | nonce (12 bytes) | sealed Catalog
//   segments/NNNNNNNNNN.seg    the log: SegmentHeader, then records, each on a multiple of 8 bytes:
//                                RecordHeader | payload (`stored` bytes) | zeros up to a multiple of 8
//                              Encrypted: the payload is sealed, and so kTagBytes longer; headers are in the clear
//   index/NNNNNNNNNN.idx       IndexHeader | `count` IndexEntry | `bases` PageKey: the pages of that segment. Derived: left out or
//                              damaged, the segment is read instead. In the clear also when the store is encrypted
//
//   kind      payload
//   kRaw      the page                       kFilled   8 bytes that the page repeats
//   kLz4      the page, one LZ4 block        kDelta    key of the base (16 bytes) | patch (page_codec.h)
//   kZstd     the page, one zstd frame
//   kEntries  PageEntry, by page             kInfo     Info (manifest.proto)
//   kFrame    Transaction (manifest.proto); its `key` holds the frame's number and the checksum of its batch
//
// A batch is what stands between two frames. Batch n+1 is begun when batch n is durable; so the last frame counts only when all
// of its batch is there, and of an earlier one whatever is not there was damaged later. What stands behind the last frame that
// counts was never committed and is cut off by open().
//
// A checksum "of A, and B" is the XXH3-64 of B with that of A as its seed. That of a batch is the one of its records'
// checksums, each with the former as its seed: an older batch that was cut off and partly written over does not pass for whole.
// All of them are of what stands on the disk, so damage is found without any key.
//
// Everything here is pure, but for the nonce of a sealed CATALOG: bytes in, values out, Error (kCorrupt, kVersion) on anything else.
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

inline constexpr const char* kDamageHint =
    "run mhvctl store check: it names everything that is damaged; mhvctl store repair drops that and keeps the rest";

static_assert(std::endian::native == std::endian::little, "the structures are written as they stand in memory");

inline constexpr std::uint32_t kFormatVersion = 2;
inline constexpr std::uint32_t kSealedVersion = 3;            // of what belongs to an encrypted store; its index files are of the other
inline constexpr std::size_t kTagBytes = 16;                  // what a sealed payload is longer
inline constexpr std::uint64_t kSegmentBytesMax = 64u << 20;  // a segment that is longer gets no further record
inline constexpr std::uint32_t kStoredMax = 16u << 20;        // of a record's payload
inline constexpr std::uint32_t kSegmentNumberMax = (1u << 26) - 1;
inline constexpr std::uint32_t kInfoBytesMax = 4u << 20;
inline constexpr std::uint32_t kDomainXmlBytesMax = 4u << 20;
inline constexpr std::uint64_t kEntriesMax = 1u << 28;  // 1 TiB of RAM
inline constexpr std::size_t kEntriesOfRecord = 65536;
inline constexpr std::size_t kDeviceStateBytesMax = 64u << 20;
inline constexpr std::size_t kBlocksMax = 256;
inline constexpr std::size_t kDisksMax = 256;
inline constexpr std::uint64_t kCatalogBytesMax = 1u << 30;

using Secret = std::array<std::uint8_t, 16>;

enum class Kind : std::uint8_t { kRaw = 0, kLz4 = 1, kFilled = 2, kDelta = 3, kZstd = 4, kEntries = 16, kInfo = 17, kFrame = 18 };
constexpr bool is_page(Kind kind) { return kind <= Kind::kZstd; }

struct SegmentHeader {
  char magic[8];  // "MHVSEG\r\n"
  std::uint32_t version;
  std::uint32_t number;    // as in the file's name
  std::uint64_t identity;  // random: ties an index file to this very segment
  Secret secret;           // as in CATALOG; encrypted: the salt of this segment's key
  std::uint64_t checksum;  // XXH3-64 of what stands before
};
static_assert(sizeof(SegmentHeader) == 48 && offsetof(SegmentHeader, checksum) == 40);

struct RecordHeader {
  std::uint32_t magic;            // kRecordMagic, kSealedMagic
  std::uint32_t kind_and_stored;  // kind << 24 | bytes of payload - 1
  PageKey key;                    // of a page; of a frame, see above; else zeros
  std::uint64_t checksum;         // of what stands before, and the payload
};
static_assert(sizeof(RecordHeader) == 32 && offsetof(RecordHeader, key) == 8 && offsetof(RecordHeader, checksum) == 24);
inline constexpr std::uint32_t kRecordMagic = 0x5256484d;  // "MHVR"
inline constexpr std::uint32_t kSealedMagic = 0x5356484d;  // "MHVS"
inline constexpr std::size_t kPageStoredMax = kPageSize + kTagBytes;
inline constexpr std::size_t kPageRecordBytesMax = sizeof(RecordHeader) + kPageStoredMax;
constexpr std::size_t record_bytes(std::size_t stored) { return sizeof(RecordHeader) + ((stored + 7) & ~std::size_t{7}); }

struct IndexHeader {
  char magic[8];  // "MHVIDX\r\n"
  std::uint32_t version;
  std::uint32_t number;
  std::uint64_t identity;  // of the segment
  std::uint64_t covered;   // the entries are all the pages of the first so many bytes
  std::uint64_t count;
  std::uint64_t bases;
  std::uint64_t checksum;  // of what stands before, and all that follows
};
static_assert(sizeof(IndexHeader) == 56 && offsetof(IndexHeader, checksum) == 48);

struct IndexEntry {
  PageKey key;
  std::uint32_t offset;  // of the record in the segment
  std::uint32_t stored;
  std::uint32_t base;  // of a delta: place in the list of bases, from 1; else 0
};
static_assert(sizeof(IndexEntry) == 28 && offsetof(IndexEntry, offset) == 16);
static_assert(sizeof(PageEntry) == 20 && offsetof(PageEntry, key) == 4);
// Of a record of entries, by its `stored`, sealed or not.
constexpr std::uint64_t entries_in(std::uint32_t stored) { return stored / sizeof(PageEntry); }
static_assert(kTagBytes < sizeof(PageEntry));

struct CatalogHeader {
  char magic[8];  // "MHVCAT\r\n"
  std::uint32_t version;
  std::uint32_t reserved;
  std::uint64_t bytes;
  std::uint64_t checksum;  // of what stands before, and all that follows
};
static_assert(sizeof(CatalogHeader) == 32 && offsetof(CatalogHeader, checksum) == 24);

// A place between records. Positions grow as long as the store lives.
struct Position {
  std::uint32_t segment = 0;
  std::uint64_t offset = 0;
  friend auto operator<=>(const Position&, const Position&) = default;
};

// Where a record is.
struct Ref {
  std::uint32_t segment = 0;
  std::uint32_t offset = 0;
  std::uint32_t stored = 0;
  friend bool operator==(const Ref&, const Ref&) = default;
};

class Seal;  // store/sealing.h

// ---- segments

// `version`: kFormatVersion or kSealedVersion, as the store is encrypted or not; here and below.
std::vector<std::byte> serialize_segment_header(std::uint32_t version, std::uint32_t number, std::uint64_t identity, const Secret& secret);
// Throws kCorrupt, kVersion.
SegmentHeader parse_segment_header(std::span<const std::byte> bytes, std::uint32_t version, std::uint32_t number);
// What stands in the place of the secret, whether the header is whole or not; zeros where it is too short.
Secret secret_in(std::span<const std::byte> segment_header);

// Writes the record to `out` (record_bytes(payload.size()) bytes, which the caller has made room for). Returns its checksum.
std::uint64_t serialize_record(Kind kind, const PageKey& key, std::span<const std::byte> payload, std::byte* out);
// In two steps: the header without its checksum; and that with the header around the payload that stands at out + sizeof(RecordHeader).
RecordHeader record_header(Kind kind, const PageKey& key, std::size_t stored, bool sealed);
std::uint64_t finish_record(RecordHeader header, std::byte* out);
struct Record {
  Kind kind;
  PageKey key;
  std::span<const std::byte> payload;  // as it stands on the disk
  std::uint64_t checksum = 0;
  bool sealed = false;
  std::size_t bytes() const { return record_bytes(payload.size()); }
};
// nullopt: no whole, unaltered record stands at the head of `bytes`.
std::optional<Record> parse_record(std::span<const std::byte> bytes);
// The same without the checksums: for a page, whose key is compared with its content.
std::optional<Record> parse_record_unchecked(std::span<const std::byte> bytes);
PageKey base_of(Kind kind, std::span<const std::byte> opened_payload);  // zeros for all but a delta

std::uint64_t next_batch_checksum(std::uint64_t before, std::uint64_t record_checksum);
PageKey frame_key(std::uint64_t number, std::uint64_t batch_checksum);
struct FrameKey {
  std::uint64_t number, batch_checksum;
};
FrameKey parse_frame_key(const PageKey& key);

// One page of a segment, as an index file has it.
struct IndexedPage {
  PageKey key;
  std::uint32_t offset = 0;
  std::uint32_t stored = 0;
  PageKey base;  // of a delta; else zeros
};

// Calls fn(record, offset) for every whole record that begins in bytes [from, to) of a segment, given as a whole; returns the bytes
// of damage that it stepped over.
template <typename Fn>
std::uint64_t scan_records(std::span<const std::byte> segment, std::uint64_t from, std::uint64_t to, Fn&& fn) {
  std::uint64_t damaged = 0;
  to = std::min<std::uint64_t>(to, segment.size());
  from = (from + 7) & ~std::uint64_t{7};
  while (from < to) {
    const auto record = parse_record(segment.subspan(from));
    if (!record) {  // the next one stands on some later multiple of 8
      const std::uint64_t step = std::min<std::uint64_t>(8, to - from);
      damaged += step;
      from += step;
      continue;
    }
    fn(*record, from);
    from += record->bytes();
  }
  return damaged;
}

// ---- index files

std::vector<std::byte> serialize_index(std::uint32_t number, std::uint64_t identity, std::uint64_t covered,
                                       std::span<const IndexedPage> pages);
struct IndexFile {
  std::uint64_t covered = 0;
  std::vector<IndexedPage> pages;
};
// nullopt: of another segment or version, or damaged; it is to be made again.
std::optional<IndexFile> parse_index(std::span<const std::byte> bytes, std::uint32_t number, std::uint64_t identity);

// ---- what checkpoints are made of

std::span<const std::byte> entries_payload(std::span<const PageEntry> entries);
// In order, none named twice. Throws kCorrupt.
std::vector<PageEntry> parse_entries(std::span<const std::byte> payload);

struct InfoRecord {
  CheckpointInfo info;  // without what its link says (parent, created_ns, automatic), and without the XML itself
  std::vector<PageKey> device_state, domain_xml;
  std::uint64_t domain_xml_bytes = 0;
};
std::string serialize_info(const InfoRecord& record);       // throws kInvalid when it is too long
InfoRecord parse_info(std::span<const std::byte> payload);  // throws kCorrupt

// A link of the tree of checkpoints (manifest.proto). Never changed, only replaced.
struct Link {
  std::string id, parent;
  std::uint64_t sequence = 0;
  std::int64_t created_ns = 0;
  bool automatic = false, hidden = false;
  std::uint64_t walk = 0, entries_count = 0, pages_total = 0;
  Ref info;
  std::vector<Ref> entries, table;
};
struct Transaction {
  std::vector<Link> put;
  std::vector<std::string> gone;
};
std::string serialize_transaction(const Transaction& transaction);  // throws kInvalid when it is too long
Transaction parse_transaction(std::span<const std::byte> payload);  // throws kCorrupt

struct Catalog {
  std::uint64_t number = 0;
  Position end;
  std::uint32_t first_segment = 1;
  std::uint64_t next_sequence = 1;
  Secret secret{};
  std::vector<Link> links;
};
// `seal`: nullptr when the store is not encrypted.
std::vector<std::byte> serialize_catalog(const Catalog& catalog, const Seal* seal);
// `damage` tells when only one of the two copies is whole. Throws kCorrupt, kVersion.
Catalog parse_catalog(std::span<const std::byte> bytes, const Seal* seal, std::string& damage);

// ---- the rest

// What FORMAT says.
struct FormatLine {
  bool sealed = false;
  Secret salt{}, check{};
  friend bool operator==(const FormatLine&, const FormatLine&) = default;
};
std::string format_line(const FormatLine& format = {});
FormatLine parse_format_line(std::string_view text);  // throws kVersion, kCorrupt

// A canonical UUID in lower case: what a checkpoint's id has to be.
bool is_uuid(std::string_view text);
// Pages of all blocks together.
std::uint64_t pages_of(std::span<const BlockInfo> blocks);

}  // namespace mhv::store
