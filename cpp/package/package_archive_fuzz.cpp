// A package as a stranger may have made it: refused, or listed within its limits.
#include "base/error.h"
#include "package/archive.h"
#include "stack/manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mhv::package;
  try {
    const Contents contents = read_archive(std::as_bytes(std::span(data, size)), [](const std::string&, bool) { return Sink(); });
    std::uint64_t bytes = 0;
    for (const auto& [path, entry] : contents.listing.entries()) {
      if (path.empty() || path[0] == '/' || path.find("..") == 0 || path.find("/.") != std::string::npos) __builtin_trap();
      bytes += entry.bytes;
    }
    if (bytes > kBytesMax || contents.manifest.size() > mhv::stack::kManifestMax) __builtin_trap();
    mhv::stack::parse_manifest(contents.manifest);
  } catch (const mhv::Error&) {
  }
  return 0;
}
