// Whatever stands in a segment or an index file: taken apart or refused, never trusted.
#include <algorithm>

#include "base/error.h"
#include "store/format.h"
#include "store/page_codec.h"
#include "store/sealing.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mhv::store;
  static const Seal kSeal{mhv::keys::Key(std::string(32, 'k'))};
  const auto bytes = std::as_bytes(std::span(data, size));
  std::array<std::byte, mhv::kPageSize> page{};
  if (const auto record = parse_record_unchecked(bytes)) {
    (void)decode_page(record->kind, record->payload, page);
    if (!record->sealed) (void)base_of(record->kind, record->payload);
    std::vector<std::byte> room(record->payload.size());
    if (const auto payload = open_record(*record, &kSeal, 48, room)) (void)decode_page(record->kind, *payload, page);  // the seed does
  }
  if (size > 0 && size <= kInfoBytesMax) {
    std::vector<std::byte> sealed(record_bytes(size + kTagBytes)), room(size + kTagBytes);
    serialize_sealed(Kind::kInfo, {}, bytes, kSeal, 48, sealed.data());
    const auto record = parse_record(sealed);
    const auto payload = record ? open_record(*record, &kSeal, 48, room) : std::nullopt;
    if (!payload || !std::ranges::equal(*payload, bytes)) __builtin_trap();
  }
  for (const Kind kind : {Kind::kRaw, Kind::kLz4, Kind::kFilled, Kind::kZstd}) (void)decode_page(kind, bytes, page);
  (void)apply_delta(bytes, page);
  std::uint64_t whole = 0;
  const std::uint64_t damaged =
      scan_records(bytes, sizeof(SegmentHeader), size, [&](const Record& record, std::uint64_t) { whole += record.bytes(); });
  if (damaged + whole > size) __builtin_trap();
  (void)parse_index(bytes, 1, 1);
  try {
    (void)parse_segment_header(bytes, kFormatVersion, 1);
  } catch (const mhv::Error&) {
  }
  // Two pages out of the input: a patch of one makes the other.
  if (size >= 2 * mhv::kPageSize) {
    const auto a = bytes.first<mhv::kPageSize>(), b = bytes.subspan<mhv::kPageSize, mhv::kPageSize>();
    std::array<std::byte, mhv::kPageSize + sizeof(PageKey)> room;
    const auto patch = encode_delta(a, b, {}, mhv::kPageSize, room);
    if (!patch.empty()) {
      std::copy(b.begin(), b.end(), page.begin());
      if (!apply_delta(patch, page) || !std::equal(page.begin(), page.end(), a.begin())) __builtin_trap();
    }
  }
  return 0;
}
