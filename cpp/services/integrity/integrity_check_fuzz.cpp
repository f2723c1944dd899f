// A kernel made by hand, with words that a guest may have written anywhere: it is checked all the same, and in a bounded time.
#include <array>
#include <cstring>

#include "base/error.h"
#include "integrity/testing.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mhv::integrity;
  static const testing::MadeKernel original;
  static const Kernel kernel(original.memory, original.paging());
  struct Patch {
    std::uint32_t place;
    std::uint64_t value;
  };
  constexpr std::size_t kPatchBytes = 12, kPatchesMax = 64;
  // The kernel looks at `original`'s memory; what was patched is put back.
  auto& memory = const_cast<testing::MadeKernel&>(original).memory;
  std::vector<Patch> undo;
  const auto registers = original.registers();
  try {
    Checker checker(kernel, registers);
    for (std::size_t i = 0; i + kPatchBytes <= size && undo.size() < kPatchesMax; i += kPatchBytes) {
      Patch patch;
      std::memcpy(&patch.place, data + i, sizeof patch.place);
      std::memcpy(&patch.value, data + i + sizeof patch.place, sizeof patch.value);
      patch.place = static_cast<std::uint32_t>(testing::kImagePhys + patch.place % ((13u << 20) - sizeof patch.value));
      undo.push_back({patch.place, *mhv::introspection::read_as<std::uint64_t>(memory, {patch.place})});
      memory.put(patch.place, patch.value);
    }
    checker.check(registers);
    const Written written{{{testing::kImagePhys}, testing::kImageBytes}};
    checker.check(registers, &written);
    Checker(kernel, registers).check(registers);
  } catch (const mhv::Error&) {
  }
  for (auto patch = undo.rbegin(); patch != undo.rend(); ++patch) memory.put(patch->place, patch->value);
  return 0;
}
