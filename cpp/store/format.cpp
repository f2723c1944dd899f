#include "store/format.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>
#include <string_view>

#include "base/error.h"
#include "store_schema/manifest.pb.h"

namespace mhv::store {
namespace {

constexpr char kSegmentMagic[9] = "MHVSEG\r\n";
constexpr char kIndexMagic[9] = "MHVIDX\r\n";
constexpr char kManifestMagic[9] = "MHVMAN\r\n";
constexpr char kPositionMagic[9] = "MHVPOS\r\n";
constexpr std::string_view kFormatPrefix = "nova-mhv store ";

template <typename T>
T load(std::span<const std::byte> bytes, std::size_t at = 0) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

template <typename T>
void append(std::vector<std::byte>& out, const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

[[noreturn]] void corrupt(const std::string& what) { throw Error(Code::kCorrupt, what); }

void check_version(std::uint32_t version, const char* what) {
  if (version == kFormatVersion) return;
  throw Error(Code::kVersion,
              std::string(what) + " is of version " + std::to_string(version) + " of the format, this program reads " +
                  std::to_string(kFormatVersion),
              "use the release of nova-mhv that wrote it, or delete the guest's checkpoints");
}

std::uint64_t hash(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

// Of a header and what follows it.
std::uint64_t hash2(std::span<const std::byte> head, std::span<const std::byte> body) {
  return XXH3_64bits_withSeed(body.data(), body.size(), hash(head));
}

schema::ManifestInfo to_schema(const ManifestHead& head) {
  schema::ManifestInfo out;
  const CheckpointInfo& info = head.info;
  out.set_id(info.id);
  out.set_parent(info.parent);
  out.set_name(info.name);
  out.set_created_ns(info.created_ns);
  out.set_automatic(info.automatic);
  out.set_epoch(info.epoch);
  out.set_pause_us(info.pause_us);
  out.set_machine(info.machine);
  out.set_domain_xml(info.domain_xml);
  for (const BlockInfo& block : info.blocks) {
    auto* b = out.add_blocks();
    b->set_name(block.name);
    b->set_bytes(block.bytes);
    b->set_read_only(block.read_only);
  }
  for (const DiskInfo& disk : info.disks) {
    auto* d = out.add_disks();
    d->set_target(disk.target);
    d->set_path(disk.path);
    d->set_format(disk.format);
    d->set_snapshot(disk.snapshot);
    d->set_note(disk.note);
  }
  out.set_pages_stored(info.pages_stored);
  out.set_bytes_stored(info.bytes_stored);
  out.set_device_state_bytes(info.device_state_bytes);
  std::string keys(head.device_state.size() * sizeof(PageKey), '\0');
  if (!keys.empty()) std::memcpy(keys.data(), head.device_state.data(), keys.size());
  out.set_device_state_keys(std::move(keys));
  out.set_sequence(head.sequence);
  out.set_end_segment(head.end.segment);
  out.set_end_offset(head.end.offset);
  return out;
}

ManifestHead from_schema(const schema::ManifestInfo& in, std::uint64_t entries) {
  ManifestHead head;
  CheckpointInfo& info = head.info;
  info.id = in.id();
  info.parent = in.parent();
  if (!is_uuid(info.id)) corrupt("manifest's id is not a UUID");
  if (!info.parent.empty() && !is_uuid(info.parent)) corrupt("manifest's parent is not a UUID");
  if (info.parent == info.id) corrupt("manifest is its own parent");
  info.name = in.name();
  info.created_ns = in.created_ns();
  info.automatic = in.automatic();
  info.epoch = in.epoch();
  info.pause_us = in.pause_us();
  info.machine = in.machine();
  info.domain_xml = in.domain_xml();
  if (in.blocks_size() > static_cast<int>(kBlocksMax)) corrupt("manifest names too many RAM blocks");
  if (in.disks_size() > static_cast<int>(kDisksMax)) corrupt("manifest names too many disks");
  for (const auto& b : in.blocks()) info.blocks.push_back({b.name(), b.bytes(), b.read_only()});
  if (pages_of(info.blocks) > kEntriesMax) corrupt("manifest's RAM blocks are too large");
  for (const auto& d : in.disks()) info.disks.push_back({d.target(), d.path(), d.format(), d.snapshot(), d.note()});
  info.pages = entries;
  info.pages_stored = in.pages_stored();
  info.bytes_stored = in.bytes_stored();
  info.device_state_bytes = in.device_state_bytes();
  const std::string& keys = in.device_state_keys();
  if (info.device_state_bytes > kDeviceStateBytesMax) corrupt("manifest's device state is too long");
  if (keys.size() != (info.device_state_bytes + kPageSize - 1) / kPageSize * sizeof(PageKey))
    corrupt("manifest's device state has the wrong length");
  head.device_state.resize(keys.size() / sizeof(PageKey));
  if (!keys.empty()) std::memcpy(head.device_state.data(), keys.data(), keys.size());
  head.sequence = in.sequence();
  head.end = {in.end_segment(), in.end_offset()};
  if (head.end.segment > kSegmentNumberMax || head.end.offset > kSegmentBytesMax + kRecordBytesMax)
    corrupt("manifest ends at no possible position");
  return head;
}

// The header of a manifest with its own limits checked.
ManifestHeader manifest_header(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(ManifestHeader)) corrupt("manifest is cut short");
  const auto header = load<ManifestHeader>(bytes);
  if (std::memcmp(header.magic, kManifestMagic, 8) != 0) corrupt("not a manifest (wrong magic)");
  check_version(header.version, "manifest");
  if (header.info_bytes > kInfoBytesMax) corrupt("manifest announces too long a head");
  if (header.entries > kEntriesMax) corrupt("manifest announces too many pages");
  return header;
}

}  // namespace

// ---- segments

std::vector<std::byte> serialize_segment_header(std::uint32_t number, std::uint64_t identity) {
  SegmentHeader header{};
  std::memcpy(header.magic, kSegmentMagic, 8);
  header.version = kFormatVersion;
  header.number = number;
  header.identity = identity;
  header.checksum = hash(std::as_bytes(std::span(&header, 1)).first(offsetof(SegmentHeader, checksum)));
  std::vector<std::byte> out;
  append(out, header);
  return out;
}

std::uint64_t parse_segment_header(std::span<const std::byte> bytes, std::uint32_t number) {
  if (bytes.size() < sizeof(SegmentHeader)) corrupt("segment is cut short");
  const auto header = load<SegmentHeader>(bytes);
  if (std::memcmp(header.magic, kSegmentMagic, 8) != 0) corrupt("not a segment (wrong magic)");
  check_version(header.version, "segment");
  if (header.checksum != hash(bytes.first(offsetof(SegmentHeader, checksum)))) corrupt("segment's header is damaged");
  if (header.number != number) corrupt("segment says it is number " + std::to_string(header.number));
  return header.identity;
}

void serialize_record(const PageKey& key, Encoding encoding, std::span<const std::byte> payload, std::byte* out) {
  RecordHeader header{};
  header.magic = kRecordMagic;
  header.encoding = static_cast<std::uint16_t>(encoding);
  header.stored = static_cast<std::uint16_t>(payload.size());
  header.key = key;
  header.checksum = hash2(std::as_bytes(std::span(&header, 1)).first(offsetof(RecordHeader, checksum)), payload);
  std::memcpy(out, &header, sizeof header);
  std::memcpy(out + sizeof header, payload.data(), payload.size());
  const std::size_t used = sizeof header + payload.size();
  std::memset(out + used, 0, record_bytes(payload.size()) - used);
}

std::optional<Record> parse_record(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(RecordHeader)) return std::nullopt;
  const auto header = load<RecordHeader>(bytes);
  if (header.magic != kRecordMagic || header.stored == 0 || header.stored > kPageSize) return std::nullopt;
  if (header.encoding > static_cast<std::uint16_t>(Encoding::kLz4)) return std::nullopt;
  const auto encoding = static_cast<Encoding>(header.encoding);
  if ((encoding == Encoding::kRaw) != (header.stored == kPageSize)) return std::nullopt;
  if (bytes.size() < record_bytes(header.stored) || header.key.is_zero_page()) return std::nullopt;
  const auto payload = bytes.subspan(sizeof(RecordHeader), header.stored);
  if (header.checksum != hash2(bytes.first(offsetof(RecordHeader, checksum)), payload)) return std::nullopt;
  for (const std::byte b : bytes.first(record_bytes(header.stored)).subspan(sizeof(RecordHeader) + header.stored)) {
    if (b != std::byte{0}) return std::nullopt;
  }
  return Record{header.key, encoding, payload};
}

Scan scan_records(std::span<const std::byte> segment, std::uint64_t from, std::uint64_t to) {
  Scan scan;
  to = std::min<std::uint64_t>(to, segment.size());
  from = (from + 7) & ~std::uint64_t{7};
  while (from < to) {
    const auto record = parse_record(segment.subspan(from, to - from));
    if (!record) {  // damaged: the next record stands on some later multiple of 8
      const std::uint64_t step = std::min<std::uint64_t>(8, to - from);
      scan.damaged_bytes += step;
      from += step;
      continue;
    }
    scan.entries.push_back({record->key, static_cast<std::uint32_t>(from), static_cast<std::uint16_t>(record->payload.size()), 0});
    from += record_bytes(record->payload.size());
  }
  return scan;
}

// ---- index files

std::vector<std::byte> serialize_index(std::uint32_t number, std::uint64_t identity, std::uint64_t covered,
                                       std::span<const IndexEntry> entries) {
  IndexHeader header{};
  std::memcpy(header.magic, kIndexMagic, 8);
  header.version = kFormatVersion;
  header.number = number;
  header.identity = identity;
  header.covered = covered;
  header.count = entries.size();
  header.checksum = hash2(std::as_bytes(std::span(&header, 1)).first(offsetof(IndexHeader, checksum)), std::as_bytes(entries));
  std::vector<std::byte> out;
  out.reserve(sizeof header + entries.size_bytes());
  append(out, header);
  const auto bytes = std::as_bytes(entries);
  out.insert(out.end(), bytes.begin(), bytes.end());
  return out;
}

std::optional<IndexFile> parse_index(std::span<const std::byte> bytes, std::uint32_t number, std::uint64_t identity) {
  if (bytes.size() < sizeof(IndexHeader)) return std::nullopt;
  const auto header = load<IndexHeader>(bytes);
  if (std::memcmp(header.magic, kIndexMagic, 8) != 0 || header.version != kFormatVersion) return std::nullopt;
  if (header.number != number || header.identity != identity) return std::nullopt;
  const auto body = bytes.subspan(sizeof header);
  if (header.count > kSegmentBytesMax / sizeof(RecordHeader) || body.size() != header.count * sizeof(IndexEntry)) return std::nullopt;
  if (header.checksum != hash2(bytes.first(offsetof(IndexHeader, checksum)), body)) return std::nullopt;
  IndexFile file;
  file.covered = header.covered;
  file.entries.resize(header.count);
  if (!body.empty()) std::memcpy(file.entries.data(), body.data(), body.size());
  std::uint64_t at = sizeof(SegmentHeader);
  for (const IndexEntry& entry : file.entries) {
    if (entry.offset < at || entry.offset % 8 != 0 || entry.stored == 0 || entry.stored > kPageSize || entry.key.is_zero_page())
      return std::nullopt;
    at = entry.offset + record_bytes(entry.stored);
  }
  if (at > file.covered) return std::nullopt;
  return file;
}

// ---- manifests

std::vector<std::byte> serialize_manifest(const ManifestHead& head, std::span<const PageEntry> entries) {
  if (head.info.blocks.size() > kBlocksMax) throw Error(Code::kInvalid, "more than " + std::to_string(kBlocksMax) + " RAM blocks");
  if (head.info.disks.size() > kDisksMax) throw Error(Code::kInvalid, "more than " + std::to_string(kDisksMax) + " disks");
  std::string info;
  if (!to_schema(head).SerializeToString(&info) || info.size() > kInfoBytesMax) {
    throw Error(Code::kInvalid,
                "what is told about the checkpoint (domain XML, names) is longer than " + std::to_string(kInfoBytesMax) + " bytes");
  }
  ManifestHeader header{};
  std::memcpy(header.magic, kManifestMagic, 8);
  header.version = kFormatVersion;
  header.info_bytes = static_cast<std::uint32_t>(info.size());
  header.entries = entries.size();
  header.info_checksum =
      hash2(std::as_bytes(std::span(&header, 1)).first(offsetof(ManifestHeader, info_checksum)), std::as_bytes(std::span(info)));
  std::vector<std::byte> out;
  out.reserve(sizeof header + info.size() + entries.size_bytes() + kManifestTrailerBytes);
  append(out, header);
  const auto text = std::as_bytes(std::span(info));
  out.insert(out.end(), text.begin(), text.end());
  const auto body = std::as_bytes(entries);
  out.insert(out.end(), body.begin(), body.end());
  const XXH128_hash_t sum = XXH3_128bits(out.data(), out.size());
  append(out, sum.low64);
  append(out, sum.high64);
  return out;
}

std::size_t manifest_head_bytes(std::span<const std::byte> bytes) { return sizeof(ManifestHeader) + manifest_header(bytes).info_bytes; }

ManifestHead parse_manifest_head(std::span<const std::byte> bytes, std::uint64_t file_bytes) {
  const ManifestHeader header = manifest_header(bytes);
  if (bytes.size() < sizeof header + header.info_bytes) corrupt("manifest is cut short");
  if (file_bytes != sizeof header + header.info_bytes + header.entries * sizeof(PageEntry) + kManifestTrailerBytes) {
    corrupt("manifest has the wrong length");
  }
  const auto text = bytes.subspan(sizeof header, header.info_bytes);
  if (header.info_checksum != hash2(bytes.first(offsetof(ManifestHeader, info_checksum)), text)) corrupt("manifest's head is damaged");
  schema::ManifestInfo info;
  if (!info.ParseFromArray(text.data(), static_cast<int>(text.size()))) corrupt("manifest's head cannot be parsed");
  return from_schema(info, header.entries);
}

Manifest parse_manifest(std::span<const std::byte> bytes) {
  Manifest manifest{parse_manifest_head(bytes, bytes.size()), {}};
  const auto checked = bytes.first(bytes.size() - kManifestTrailerBytes);
  const XXH128_hash_t sum = XXH3_128bits(checked.data(), checked.size());
  if (sum.low64 != load<std::uint64_t>(bytes, checked.size()) || sum.high64 != load<std::uint64_t>(bytes, checked.size() + 8)) {
    corrupt("manifest is damaged (wrong checksum)");
  }
  manifest.entries.resize(manifest.info.pages);
  const auto body = checked.last(manifest.info.pages * sizeof(PageEntry));
  if (!body.empty()) std::memcpy(manifest.entries.data(), body.data(), body.size());
  std::uint64_t next = 0;
  const std::uint64_t pages = pages_of(manifest.info.blocks);
  for (const PageEntry& entry : manifest.entries) {
    if (entry.page.value < next) corrupt("manifest's pages are not in order");
    next = std::uint64_t{entry.page.value} + 1;
  }
  if (next > pages) corrupt("manifest names a page beyond the RAM blocks");
  return manifest;
}

// ---- the rest

std::vector<std::byte> serialize_position(const Position& position) {
  PositionFile file{};
  std::memcpy(file.magic, kPositionMagic, 8);
  file.version = kFormatVersion;
  file.segment = position.segment;
  file.offset = position.offset;
  file.checksum = hash(std::as_bytes(std::span(&file, 1)).first(offsetof(PositionFile, checksum)));
  std::vector<std::byte> out;
  append(out, file);
  return out;
}

Position parse_position(std::span<const std::byte> bytes) {
  if (bytes.size() != sizeof(PositionFile)) corrupt("POSITION has the wrong length");
  const auto file = load<PositionFile>(bytes);
  if (std::memcmp(file.magic, kPositionMagic, 8) != 0) corrupt("not a POSITION file (wrong magic)");
  check_version(file.version, "POSITION");
  if (file.checksum != hash(bytes.first(offsetof(PositionFile, checksum)))) corrupt("POSITION is damaged");
  return {file.segment, file.offset};
}

std::string format_line() { return std::string(kFormatPrefix) + std::to_string(kFormatVersion) + "\n"; }

void check_format_line(std::string_view text) {
  if (text == format_line()) return;
  if (!text.starts_with(kFormatPrefix)) corrupt("FORMAT does not name a nova-mhv store");
  std::string found(text.substr(kFormatPrefix.size(), 20));
  while (!found.empty() && found.back() == '\n') found.pop_back();
  throw Error(Code::kVersion, "the store is of version " + found + " of the format, this program reads " + std::to_string(kFormatVersion),
              "use the release of nova-mhv that wrote it, or delete the guest's checkpoints");
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
