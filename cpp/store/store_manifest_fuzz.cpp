// A manifest, or FORMAT: taken apart or refused; what was taken apart is written as it was.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>

#include "base/error.h"
#include "store/format.h"

namespace {

using namespace mhv::store;

void try_manifest(std::span<const std::byte> bytes) {
  try {
    const Manifest manifest = parse_manifest(bytes);
    const Manifest again = parse_manifest(serialize_manifest(manifest, manifest.entries));
    if (again.info.id != manifest.info.id || again.entries.size() != manifest.entries.size()) __builtin_trap();
  } catch (const mhv::Error&) {
  }
}

// The same bytes with checksums that are right, to come past them.
std::vector<std::byte> with_checksums(std::span<const std::byte> bytes) {
  std::vector<std::byte> out(bytes.begin(), bytes.end());
  if (out.size() < sizeof(ManifestHeader) + kManifestTrailerBytes) return out;
  ManifestHeader header;
  std::memcpy(&header, out.data(), sizeof header);
  const std::size_t info = std::min<std::size_t>(header.info_bytes, out.size() - sizeof header);
  const auto seed = XXH3_64bits(out.data(), offsetof(ManifestHeader, info_checksum));
  header.info_checksum = XXH3_64bits_withSeed(out.data() + sizeof header, info, seed);
  std::memcpy(out.data(), &header, sizeof header);
  const std::size_t body = out.size() - kManifestTrailerBytes;
  const XXH128_hash_t sum = XXH3_128bits(out.data(), body);
  std::memcpy(out.data() + body, &sum.low64, 8);
  std::memcpy(out.data() + body + 8, &sum.high64, 8);
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    check_format_line({reinterpret_cast<const char*>(data), size});
  } catch (const mhv::Error&) {
  }
  try {
    (void)manifest_head_bytes(bytes);
    (void)parse_manifest_head(bytes, size);
  } catch (const mhv::Error&) {
  }
  try_manifest(bytes);
  try_manifest(with_checksums(bytes));
  return 0;
}
