// A kernel's log as a guest may have written it. The input is what its ring says of itself, its descriptors, what they say, its text.
#include <algorithm>

#include "base/error.h"
#include "introspection/log.h"
#include "introspection/test_guest.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mhv::introspection;
  using testing::TestGuest;
  static TestGuest guest;
  static const Kernel kernel = guest.kernel();
  static const Log log(kernel);
  const std::uint64_t begin = TestGuest::phys(guest.log_ring), end = TestGuest::phys(guest.log_data + TestGuest::kLogBytes);
  static const std::vector<std::byte> whole = [&] {
    std::vector<std::byte> out(end - begin);
    guest.memory.read({begin}, out);
    return out;
  }();
  guest.memory.put_bytes(begin, whole);
  guest.memory.put_bytes(begin, std::as_bytes(std::span(data, std::min<std::size_t>(size, end - begin))));
  try {
    std::size_t bytes = 0;
    for (const LogRecord& record : log.list()) bytes += record.text.size();
    if (bytes > kLogBytesMax) __builtin_trap();
  } catch (const mhv::Error&) {
  }
  return 0;
}
