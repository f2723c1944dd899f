// Whatever stands in a segment, an index file or POSITION: taken apart or refused, never trusted.
#include "base/error.h"
#include "store/format.h"
#include "store/page_codec.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mhv::store;
  const auto bytes = std::as_bytes(std::span(data, size));
  std::array<std::byte, mhv::kPageSize> page;
  if (const auto record = parse_record(bytes)) (void)decode_page(record->encoding, record->payload, page);
  if (size > 2) (void)decode_page(Encoding::kLz4, bytes.subspan(2), page);
  const Scan scan = scan_records(bytes, sizeof(SegmentHeader), size);
  if (scan.damaged_bytes > size) __builtin_trap();
  (void)parse_index(bytes, 1, 1);
  try {
    (void)parse_segment_header(bytes, 1);
  } catch (const mhv::Error&) {
  }
  try {
    (void)parse_position(bytes);
  } catch (const mhv::Error&) {
  }
  return 0;
}
