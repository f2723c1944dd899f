// BTF as a guest may have written it: refused, or answers every question.
#include "base/error.h"
#include "introspection/btf.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mhv::introspection;
  const auto* const bytes = reinterpret_cast<const std::byte*>(data);
  try {
    const Btf btf(std::vector<std::byte>(bytes, bytes + size));
    for (const char* member : {"pid", "links.prev", "comm", "other"}) {
      if (const auto field = btf.field("task", member)) btf.size_of(field->type);
    }
  } catch (const mhv::Error&) {
  }
  return 0;
}
