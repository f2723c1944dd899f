#include "disk/format.h"

#include <xxhash.h>

#include <charconv>
#include <cstddef>
#include <cstring>

#include "base/error.h"

namespace mhv::disk {
namespace {

constexpr std::string_view kSegmentPrefix = "log-";
constexpr std::size_t kSegmentDigits = 16;

std::uint64_t checksum(const ChunkHeader& header, const ChunkPlace& place) {
  const std::uint64_t seed = XXH3_64bits(&place, sizeof place);
  return XXH3_64bits_withSeed(&header, offsetof(ChunkHeader, checksum), seed);
}

std::uint64_t checksum(const Entry& entry, const ChunkHeader& header, std::uint32_t number, std::span<const std::byte> content) {
  const std::uint64_t seed = XXH3_64bits_withSeed(&entry, offsetof(Entry, checksum), header.checksum + number);
  return entry.has_content() ? XXH3_64bits_withSeed(content.data(), content.size(), seed) : seed;
}

std::uint64_t checksum(const IndexHeader& header) { return XXH3_64bits(&header, offsetof(IndexHeader, checksum)); }

}  // namespace

void seal(ChunkHeader& header, const ChunkPlace& place) { header.checksum = checksum(header, place); }

void seal(Entry& entry, const ChunkHeader& header, std::uint32_t number, std::span<const std::byte> content) {
  entry.checksum = checksum(entry, header, number, content);
}

void seal(IndexHeader& header, std::span<const std::uint64_t> words) {
  header.words = words.size();
  header.words_checksum = XXH3_64bits(words.data(), words.size_bytes());
  header.checksum = checksum(header);
}

std::optional<ChunkHeader> parse_chunk(Descriptor bytes, const ChunkPlace& place) {
  ChunkHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kChunkMagic || header.version != kFormatVersion || header.checksum != checksum(header, place)) return std::nullopt;
  return header;
}

Entry load_entry(Descriptor bytes, std::uint32_t number) {
  Entry entry;
  std::memcpy(&entry, bytes.data() + std::size_t{number} * sizeof entry, sizeof entry);
  return entry;
}

bool proves(const Entry& entry, const ChunkHeader& header, std::uint32_t number, std::span<const std::byte> content) {
  const bool known = entry.kind >= Kind::kData && entry.kind <= Kind::kMove;
  return known && entry.checksum == checksum(entry, header, number, content);
}

IndexHeader parse_index_header(std::span<const std::byte> bytes, std::uint64_t file_bytes) {
  IndexHeader header;
  if (bytes.size() < sizeof header) throw Error(Code::kCorrupt, "a journal's index is cut short");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kIndexMagic) throw Error(Code::kCorrupt, "not a journal's index (wrong magic)");
  if (header.version != kFormatVersion) {
    throw Error(Code::kVersion,
                "the journal has format " + std::to_string(header.version) + ", this program reads " + std::to_string(kFormatVersion));
  }
  if (header.checksum != checksum(header)) throw Error(Code::kCorrupt, "the header of a journal's index is damaged");
  const bool whole = header.words <= kIndexWordsMax && file_bytes == sizeof header + header.words * 8;
  const bool sane = header.segment_blocks >= kChunkBlocks && header.segment_blocks % kChunkBlocks == 0 &&
                    header.position % kChunkBlocks == 0 && header.position >= header.segment_blocks &&
                    header.disk_bytes / kBlockBytes < kDiskBlocksMax && header.previous_entries <= kChunkEntries;
  if (!whole || !sane) throw Error(Code::kCorrupt, "a journal's index does not fit its own header");
  return header;
}

bool proves(const IndexHeader& header, std::span<const std::uint64_t> words) {
  return header.words_checksum == XXH3_64bits(words.data(), words.size_bytes());
}

std::string segment_name(std::uint64_t number) {
  std::array<char, kSegmentDigits> digits{};
  digits.fill('0');
  std::array<char, kSegmentDigits> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), number, 16).ptr;
  const auto length = static_cast<std::size_t>(end - text.data());
  std::memcpy(digits.data() + kSegmentDigits - length, text.data(), length);
  return std::string(kSegmentPrefix) + std::string(digits.data(), digits.size());
}

std::optional<std::uint64_t> parse_segment_name(const std::string& name) {
  if (name.size() != kSegmentPrefix.size() + kSegmentDigits || !name.starts_with(kSegmentPrefix)) return std::nullopt;
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(name.data() + kSegmentPrefix.size(), name.data() + name.size(), number, 16);
  if (error != std::errc() || end != name.data() + name.size() || number == 0) return std::nullopt;
  return number;
}

}  // namespace mhv::disk
