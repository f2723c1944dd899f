// The file that an operator took for a vendor's kernel, with words that are anything: it is refused or compared, in a bounded time.
#include <cstring>

#include "base/error.h"
#include "integrity/vendor_testing.h"
#include "integrity/vendor_text.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mhv::integrity;
  static const testing::MadeKernel made;
  static const Kernel kernel(made.memory, made.paging());
  static const Image where(kernel);
  static const std::vector<std::byte> original = testing::MadeVendor().file();
  struct Patch {
    std::uint32_t place, value;
  };
  constexpr std::size_t kPatchesMax = 64;
  std::vector<std::byte> file = original;
  for (std::size_t i = 0; i + sizeof(Patch) <= size && i < kPatchesMax * sizeof(Patch); i += sizeof(Patch)) {
    Patch patch;
    std::memcpy(&patch, data + i, sizeof patch);
    std::memcpy(file.data() + patch.place % (file.size() - sizeof patch.value), &patch.value, sizeof patch.value);
  }
  // The last odd byte says how much of it is there.
  if (size % sizeof(Patch) == 1) file.resize(file.size() * data[size - 1] / 256);
  try {
    VendorImage::may_have(file, kernel.banner());
    VendorText text(kernel, std::make_shared<VendorImage>(file));
    Reader reader(kernel);
    CodeMap map(reader, where);
    SiteJudge judge(reader, map);
    text.compare(reader, judge);
    std::vector<Finding> found;
    text.check(reader, judge, {}, found);
  } catch (const mhv::Error&) {
  }
  return 0;
}
