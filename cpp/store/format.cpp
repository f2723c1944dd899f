#include "store/format.h"

#include <charconv>
#include <map>
#include <string_view>

#include "store/format_bytes.h"

namespace mhv::store {
namespace {

constexpr char kSegmentMagic[9] = "MHVSEG\r\n";
constexpr char kIndexMagic[9] = "MHVIDX\r\n";
constexpr std::string_view kFormatPrefix = "nova-mhv store ";
constexpr std::string_view kPlainFormat = "nova-mhv store 2\n", kSealedFormat = "nova-mhv store 3 aes-256-gcm ";
constexpr const char* kVersionHint = "use the release of nova-mhv that wrote it, or delete the guest's checkpoints";

// The limits of one kind's payload.
bool fits(Kind kind, std::uint32_t stored, bool sealed) {
  if (sealed && stored <= kTagBytes) return false;
  if (sealed) stored -= kTagBytes;
  switch (kind) {
    case Kind::kRaw: return stored == kPageSize;
    case Kind::kLz4:
    case Kind::kZstd: return stored < kPageSize;
    case Kind::kFilled: return stored == 8;
    case Kind::kDelta: return stored > sizeof(PageKey) && stored < kPageSize;
    case Kind::kEntries: return stored % sizeof(PageEntry) == 0 && stored <= kEntriesOfRecord * sizeof(PageEntry);
    case Kind::kInfo: return stored <= kInfoBytesMax;
    case Kind::kFrame: return stored <= kStoredMax;
  }
  return false;
}

}  // namespace

void check_version(std::uint32_t version, std::uint32_t wanted, const char* what) {
  if (version == wanted) return;
  throw Error(
      Code::kVersion,
      std::string(what) + " is of version " + std::to_string(version) + " of the format, and should be of " + std::to_string(wanted),
      kVersionHint);
}

// ---- segments

std::vector<std::byte> serialize_segment_header(std::uint32_t version, std::uint32_t number, std::uint64_t identity, const Secret& secret) {
  SegmentHeader header{};
  std::memcpy(header.magic, kSegmentMagic, 8);
  header.version = version;
  header.number = number;
  header.identity = identity;
  header.secret = secret;
  header.checksum = hash(unchecked(header));
  std::vector<std::byte> out;
  append(out, header);
  return out;
}

SegmentHeader parse_segment_header(std::span<const std::byte> bytes, std::uint32_t version, std::uint32_t number) {
  if (bytes.size() < sizeof(SegmentHeader)) corrupt("segment is cut short");
  const auto header = load<SegmentHeader>(bytes);
  if (std::memcmp(header.magic, kSegmentMagic, 8) != 0) corrupt("not a segment (wrong magic)");
  check_version(header.version, version, "segment");
  if (header.checksum != hash(unchecked(header))) corrupt("segment's header is damaged");
  if (header.number != number) corrupt("segment says it is number " + std::to_string(header.number));
  return header;
}

Secret secret_in(std::span<const std::byte> segment_header) {
  if (segment_header.size() < sizeof(SegmentHeader)) return {};
  return load<SegmentHeader>(segment_header).secret;
}

std::uint64_t serialize_record(Kind kind, const PageKey& key, std::span<const std::byte> payload, std::byte* out) {
  std::memcpy(out + sizeof(RecordHeader), payload.data(), payload.size());
  return finish_record(record_header(kind, key, payload.size(), false), out);
}

RecordHeader record_header(Kind kind, const PageKey& key, std::size_t stored, bool sealed) {
  RecordHeader header{};
  header.magic = sealed ? kSealedMagic : kRecordMagic;
  header.kind_and_stored = static_cast<std::uint32_t>(kind) << 24 | static_cast<std::uint32_t>(stored - 1);
  header.key = key;
  return header;
}

std::uint64_t finish_record(RecordHeader header, std::byte* out) {
  const std::size_t stored = (header.kind_and_stored & 0xffffff) + 1, used = sizeof header + stored;
  header.checksum = hash2(unchecked(header), {out + sizeof header, stored});
  std::memcpy(out, &header, sizeof header);
  std::memset(out + used, 0, record_bytes(stored) - used);
  return header.checksum;
}

std::optional<Record> parse_record_unchecked(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(RecordHeader)) return std::nullopt;
  const auto header = load<RecordHeader>(bytes);
  const auto kind = static_cast<Kind>(header.kind_and_stored >> 24);
  const std::uint32_t stored = (header.kind_and_stored & 0xffffff) + 1;
  const bool sealed = header.magic == kSealedMagic;
  if (!sealed && header.magic != kRecordMagic) return std::nullopt;
  if (!fits(kind, stored, sealed) || bytes.size() < record_bytes(stored)) return std::nullopt;
  if (is_page(kind) && header.key.is_zero_page()) return std::nullopt;
  return Record{kind, header.key, bytes.subspan(sizeof(RecordHeader), stored), header.checksum, sealed};
}

std::optional<Record> parse_record(std::span<const std::byte> bytes) {
  const auto record = parse_record_unchecked(bytes);
  if (!record || record->checksum != hash2(bytes.first(offsetof(RecordHeader, checksum)), record->payload)) return std::nullopt;
  for (const std::byte b : bytes.first(record->bytes()).subspan(sizeof(RecordHeader) + record->payload.size())) {
    if (b != std::byte{0}) return std::nullopt;
  }
  return record;
}

PageKey base_of(Kind kind, std::span<const std::byte> opened_payload) {
  return kind == Kind::kDelta ? load<PageKey>(opened_payload) : PageKey{};
}

std::uint64_t next_batch_checksum(std::uint64_t before, std::uint64_t record_checksum) {
  return XXH3_64bits_withSeed(&record_checksum, sizeof record_checksum, before);
}

PageKey frame_key(std::uint64_t number, std::uint64_t batch_checksum) {
  PageKey key;
  std::memcpy(key.bytes.data(), &number, 8);
  std::memcpy(key.bytes.data() + 8, &batch_checksum, 8);
  return key;
}

FrameKey parse_frame_key(const PageKey& key) {
  FrameKey out{};
  std::memcpy(&out.number, key.bytes.data(), 8);
  std::memcpy(&out.batch_checksum, key.bytes.data() + 8, 8);
  return out;
}

// ---- index files

std::vector<std::byte> serialize_index(std::uint32_t number, std::uint64_t identity, std::uint64_t covered,
                                       std::span<const IndexedPage> pages) {
  std::vector<IndexEntry> entries;
  std::vector<PageKey> bases;
  std::map<PageKey, std::uint32_t> known;
  entries.reserve(pages.size());
  for (const IndexedPage& page : pages) {
    std::uint32_t base = 0;
    if (!page.base.is_zero_page()) {
      const auto [at, added] = known.try_emplace(page.base, static_cast<std::uint32_t>(bases.size() + 1));
      if (added) bases.push_back(page.base);
      base = at->second;
    }
    entries.push_back({page.key, page.offset, page.stored, base});
  }
  IndexHeader header{};
  std::memcpy(header.magic, kIndexMagic, 8);
  header.version = kFormatVersion;
  header.number = number;
  header.identity = identity;
  header.covered = covered;
  header.count = entries.size();
  header.bases = bases.size();
  std::vector<std::byte> out;
  out.reserve(sizeof header + entries.size() * sizeof(IndexEntry) + bases.size() * sizeof(PageKey));
  append(out, header);
  const auto add = [&out](std::span<const std::byte> bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); };
  add(std::as_bytes(std::span(entries)));
  add(std::as_bytes(std::span(bases)));
  header.checksum = hash2(unchecked(header), std::span(out).subspan(sizeof header));
  std::memcpy(out.data(), &header, sizeof header);
  return out;
}

std::optional<IndexFile> parse_index(std::span<const std::byte> bytes, std::uint32_t number, std::uint64_t identity) {
  if (bytes.size() < sizeof(IndexHeader)) return std::nullopt;
  const auto header = load<IndexHeader>(bytes);
  if (std::memcmp(header.magic, kIndexMagic, 8) != 0 || header.version != kFormatVersion) return std::nullopt;
  if (header.number != number || header.identity != identity) return std::nullopt;
  constexpr std::uint64_t kMax = (kSegmentBytesMax + kStoredMax) / sizeof(RecordHeader);
  if (header.count > kMax || header.bases > header.count) return std::nullopt;
  const auto body = bytes.subspan(sizeof header);
  if (body.size() != header.count * sizeof(IndexEntry) + header.bases * sizeof(PageKey)) return std::nullopt;
  if (header.checksum != hash2(unchecked(header), body)) return std::nullopt;
  IndexFile file;
  file.covered = header.covered;
  file.pages.reserve(header.count);
  const auto bases = body.subspan(header.count * sizeof(IndexEntry));
  std::uint64_t at = sizeof(SegmentHeader);
  for (std::uint64_t i = 0; i < header.count; ++i) {
    const auto entry = load<IndexEntry>(body, i * sizeof(IndexEntry));
    if (entry.offset < at || entry.offset % 8 != 0 || entry.stored == 0 || entry.stored > kPageStoredMax || entry.key.is_zero_page() ||
        entry.base > header.bases) {
      return std::nullopt;
    }
    at = entry.offset + record_bytes(entry.stored);
    const PageKey base = entry.base == 0 ? PageKey{} : load<PageKey>(bases, (entry.base - 1) * sizeof(PageKey));
    file.pages.push_back({entry.key, entry.offset, entry.stored, base});
  }
  if (at > file.covered) return std::nullopt;
  return file;
}

// ---- entries

std::span<const std::byte> entries_payload(std::span<const PageEntry> entries) { return std::as_bytes(entries); }

std::vector<PageEntry> parse_entries(std::span<const std::byte> payload) {
  if (payload.size() % sizeof(PageEntry) != 0) corrupt("page entries are cut short");
  std::vector<PageEntry> out(payload.size() / sizeof(PageEntry));
  if (!payload.empty()) std::memcpy(out.data(), payload.data(), payload.size());
  std::uint64_t next = 0;
  for (const PageEntry& entry : out) {
    if (entry.page.value < next || entry.page.value >= kEntriesMax) corrupt("page entries are not in order");
    next = std::uint64_t{entry.page.value} + 1;
  }
  return out;
}

// ---- the rest

namespace {

std::string to_hex(std::span<const std::uint8_t> bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string out;
  for (const std::uint8_t byte : bytes) {
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

// What to_hex() makes, and nothing else.
bool from_hex(std::string_view text, std::span<std::uint8_t> out) {
  if (text.size() != 2 * out.size()) return false;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto [end, error] = std::from_chars(text.data() + 2 * i, text.data() + 2 * i + 2, out[i], 16);
    if (error != std::errc{} || end != text.data() + 2 * i + 2) return false;
  }
  return to_hex(out) == text;
}

std::string sum_of(std::string_view text) {
  const std::uint64_t sum = hash(std::as_bytes(std::span(text)));
  std::array<std::uint8_t, sizeof sum> bytes;
  std::memcpy(bytes.data(), &sum, sizeof sum);
  return to_hex(bytes);
}

}  // namespace

std::string format_line(const FormatLine& format) {
  if (!format.sealed) return std::string(kPlainFormat);
  const std::string line = std::string(kSealedFormat) + to_hex(format.salt) + " " + to_hex(format.check) + " ";
  return line + sum_of(line) + "\n";
}

FormatLine parse_format_line(std::string_view text) {
  if (text == kPlainFormat) return {};
  if (!text.starts_with(kFormatPrefix)) corrupt("FORMAT does not name a nova-mhv store");
  if (text.starts_with(kSealedFormat)) {
    FormatLine out;
    out.sealed = true;
    const auto fields = text.substr(kSealedFormat.size());
    const bool good = fields.size() == 83 && from_hex(fields.substr(0, 32), out.salt) && from_hex(fields.substr(33, 32), out.check);
    if (!good || format_line(out) != text) corrupt("FORMAT is damaged");
    return out;
  }
  std::string found(text.substr(kFormatPrefix.size(), 20));
  while (!found.empty() && found.back() == '\n') found.pop_back();
  throw Error(Code::kVersion,
              "the store is of version " + found + " of the format, this program reads " + std::to_string(kFormatVersion) + " and " +
                  std::to_string(kSealedVersion) + " aes-256-gcm",
              kVersionHint);
}

bool is_uuid(std::string_view text) {
  if (text.size() != 36) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (i == 8 || i == 13 || i == 18 || i == 23) {
      if (c != '-') return false;
    } else if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) {
      return false;
    }
  }
  return true;
}

std::uint64_t pages_of(std::span<const BlockInfo> blocks) {
  std::uint64_t pages = 0;
  for (const BlockInfo& block : blocks) {
    const std::uint64_t own = block.bytes / kPageSize + (block.bytes % kPageSize != 0);
    pages += std::min<std::uint64_t>(own, kEntriesMax + 1);  // no wrap: at most kBlocksMax of them
  }
  return pages;
}

}  // namespace mhv::store
