// A guest that changes its kernel's structures: every question is answered or refused, as text that is UTF-8.
// The input: pairs of a place among the structures (4 bytes; the lowest bit: an address of theirs is written) and a value (8 bytes).
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "introspection/answers.h"
#include "introspection/test_guest.h"

namespace {

using mhv::introspection::testing::Style;
using mhv::introspection::testing::TestGuest;
using mhv::introspection::testing::TestKernel;

struct Fuzzed {
  explicit Fuzzed(Style style) : guest(style) {}
  TestGuest guest;
  mhv::introspection::Kernel kernel = guest.kernel();
};

constexpr std::size_t kStructuresBytes = 48 << 10, kPatchBytes = 12, kPatchesMax = 16;

// Tasks are elsewhere than the rest.
std::uint64_t place_of(std::uint32_t number) {
  const std::uint64_t at = number / 8 * 8 % kStructuresBytes;
  return number >> 31 != 0 ? TestKernel::task(0) + at % (4 * TestKernel::kTaskBytes) : TestKernel::kVirt + TestKernel::kFree + at;
}

void ask_all(Fuzzed& fuzzed) {
  const auto args = nlohmann::json::object();
  for (const char* kind : {"kernel", "processes", "threads", "modules", "files", "sockets", "mounts", "syscalls", "log"}) {
    try {
      mhv::introspection::answer(fuzzed.kernel, kind, args).dump();
    } catch (const mhv::Error&) {
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Fuzzed old(Style::kOld), now(Style::kNew);
  if (size < 1) return 0;
  Fuzzed& fuzzed = data[0] % 2 == 0 ? old : now;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> before;
  for (std::size_t at = 1; at + kPatchBytes <= size && before.size() < kPatchesMax; at += kPatchBytes) {
    std::uint32_t number;
    std::uint64_t value;
    std::memcpy(&number, data + at, sizeof number);
    std::memcpy(&value, data + at + sizeof number, sizeof value);
    const std::uint64_t place = place_of(number);
    before.emplace_back(place, fuzzed.guest.get<std::uint64_t>(place));
    fuzzed.guest.put(place, number % 2 == 1 ? place_of(static_cast<std::uint32_t>(value)) + (value >> 32) % 256 : value);
  }
  ask_all(fuzzed);
  for (auto one = before.rbegin(); one != before.rend(); ++one) fuzzed.guest.put(one->first, one->second);
  return 0;
}
