// A part of a guest's memory in which a kernel's symbols may be: whatever is found can be asked for.
#include "introspection/kallsyms.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mhv::introspection;
  const auto found = Kallsyms::parse(std::as_bytes(std::span(data, size)));
  if (!found) return 0;
  for (std::size_t i = 0; i < found->size(); ++i) {
    const Kallsyms::Symbol symbol = found->at(i);
    if (symbol.name.empty() || !found->before(symbol.at)) __builtin_trap();
  }
  found->find("linux_banner");
  return 0;
}
