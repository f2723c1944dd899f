// A channel's memory as a layer may leave it: the engine receives, and sends, until that is refused or nothing is there.
#include <fcntl.h>

#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "ring/testing.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mhv::ring;
  using testing::Forger;
  static const mhv::Fd memory = make_sealed_memory(kChannelFileBytes);
  static Forger forger(memory);
  begin_channel(memory);
  Channel engine({memory.duplicate(), {}, {}}, Side::kEngine);
  // The layer's two indices, what is in its ring, and zeros behind that.
  std::uint64_t indices[2] = {};
  const std::size_t head = std::min(size, sizeof indices);
  std::copy_n(data, head, reinterpret_cast<std::uint8_t*>(indices));
  std::byte* const ring = forger.bytes() + Forger::kBytesToEngine;
  const std::size_t bytes = std::min<std::size_t>(size - head, kRingBytes);
  std::copy_n(reinterpret_cast<const std::byte*>(data) + head, bytes, ring);
  forger.put(Forger::kToEngine + Forger::kProduced, indices[0]);
  forger.put(Forger::kToLayer + Forger::kConsumed, indices[1]);
  try {
    TextParts parts;
    Message message;
    while (engine.receive(message)) {
      if (message.payload.size() > kPayloadMax) std::abort();
      parts.add(message);
    }
    while (engine.send(Type::kEvent, 0, {ring, 65536})) {
    }
  } catch (const mhv::Error&) {
  }
  std::fill_n(ring, bytes, std::byte{0});
  return 0;
}
