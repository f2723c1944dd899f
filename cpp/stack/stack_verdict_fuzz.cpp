// A layer's verdicts, one after the other, about ten packets: the first byte is its claim, then each is a length and as many bytes.
#include <algorithm>

#include "base/error.h"
#include "stack/packet_book.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mhv::stack;
  std::span rest = std::as_bytes(std::span(data, size));
  if (rest.empty()) return 0;
  const auto claim = static_cast<NetworkClaim>(1 + std::to_integer<int>(rest[0]) % 3);
  rest = rest.subspan(1);
  PacketBook book(claim);
  for (std::uint64_t i = 1; i <= 10; ++i) book.add({1, i}, {});
  int passed = 0;
  while (!rest.empty()) {
    const std::size_t bytes = std::min(std::to_integer<std::size_t>(rest[0]), rest.size() - 1);
    try {
      const auto said = book.settle(rest.subspan(1, bytes));
      if (!said) {
      } else if (said->decision != mhv::ring::Decision::kPass && claim == NetworkClaim::kSee) {
        __builtin_trap();
      } else if (said->about.packet < 1 || said->about.packet > 10 || ++passed > 20) {  // each held once, and decided once
        __builtin_trap();
      }
    } catch (const mhv::Error&) {
    }
    rest = rest.subspan(1 + bytes);
  }
  return 0;
}
