// Whatever stands in an index or a chunk of the log: taken apart or refused, never trusted.
#include <array>
#include <cstring>
#include <set>

#include "base/error.h"
#include "disk/format.h"
#include "disk/history.h"

namespace {

using namespace mhv::disk;

void use(History& history) {
  for (const MarkName& mark : history.marks()) history.rollback(mark);
  for (BlockNo block = 0; block < history.blocks(); block += 7) history.write(block, kZeros);
  for (const MarkName& mark : history.marks()) history.drop(mark);
  if (history.mark_count() != 0) __builtin_trap();
}

void index(std::span<const std::byte> bytes) {
  try {
    const IndexHeader header = parse_index_header(bytes, bytes.size());
    if (sizeof header + header.words * 8 != bytes.size()) __builtin_trap();
  } catch (const mhv::Error&) {
  }
  if (bytes.size() < sizeof(IndexHeader)) return;
  // Past the checksum, which a fuzzer does not guess.
  std::vector<std::uint64_t> words((bytes.size() - sizeof(IndexHeader)) / 8);
  if (!words.empty()) std::memcpy(words.data(), bytes.data() + sizeof(IndexHeader), words.size() * 8);
  History history(512, kChunkBlocks);
  try {
    history.load(words, {1, 2, 3});
  } catch (const mhv::Error&) {
    return;
  }
  const std::vector<std::uint64_t> again = history.save();
  History copy(512, kChunkBlocks);
  copy.load(again, {1, 2, 3});  // what was taken is whole
  use(history);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  index(bytes);
  std::array<std::byte, kBlockBytes> descriptor{};
  std::memcpy(descriptor.data(), data, std::min(size, descriptor.size()));
  const auto header = parse_chunk(descriptor, {1, 128});
  for (std::uint32_t i = 1; header && i <= kChunkEntries; ++i) (void)proves(load_entry(descriptor, i), *header, i, descriptor);
  (void)parse_segment_name(std::string(bytes.empty() ? "" : reinterpret_cast<const char*>(data), std::min<std::size_t>(size, 64)));
  return 0;
}
