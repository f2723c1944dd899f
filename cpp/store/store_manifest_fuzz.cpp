// A manifest, or FORMAT: taken apart or refused; what was taken apart is written as it was.
#include "base/error.h"
#include "store/format.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mhv::store;
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
  try {
    const Manifest manifest = parse_manifest(bytes);
    const Manifest again = parse_manifest(serialize_manifest(manifest, manifest.entries));
    if (again.info.id != manifest.info.id || again.entries.size() != manifest.entries.size()) __builtin_trap();
  } catch (const mhv::Error&) {
  }
  return 0;
}
