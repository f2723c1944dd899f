#include "introspection/walk.h"

#include <gmock/gmock.h>

#include "base/code_of_test.h"
#include "introspection/test_kernel.h"

namespace mhv::introspection {
namespace {

using testing::TestKernel;

class WalkTest : public ::testing::Test {
 public:
  TestKernel made;
  Kernel kernel = made.kernel();
  Walk walk{kernel};
  std::uint64_t at = made.add_bytes(3 * 4096);
};

TEST_F(WalkTest, ReadsOverPages) {
  const std::uint64_t edge = (at + 4096) & ~std::uint64_t{4095};
  made.put(edge - 4, std::uint64_t{0x1122'3344'5566'7788});
  EXPECT_EQ(walk.get<std::uint64_t>({edge - 4}), 0x1122'3344'5566'7788u);
  for (std::uint64_t i = 0; i < 8; ++i) made.put(edge - 4 + i, "overtext"[i]);
  Walk again(kernel);
  EXPECT_EQ(again.text({edge - 4}, 100), "overtext");
  EXPECT_EQ(again.text({edge - 4}, 6), "overte");
  EXPECT_THROW(again.get<int>({0x1000}), Torn);
  EXPECT_THROW(again.text({TestKernel::kVirt + TestKernel::kImageBytes}, 1), Torn);
}

TEST_F(WalkTest, IsReadAgainWhenItWasTorn) {
  made.put(at, 1);
  int tries = 0;
  const auto found = walk.again("number", [&] {
    const int value = walk.get<int>({at});
    made.put(at, 2);
    if (++tries == 1) throw Torn();
    return value;
  });
  EXPECT_EQ(found, 2) << "what was read before is forgotten";
  EXPECT_EQ(code_of([&] { walk.again("number", [&]() -> int { throw Torn(); }); }), Code::kBusy);
}

TEST_F(WalkTest, EndsHoweverMuchThereIs) {
  EXPECT_EQ(code_of([&] {
              for (;;) walk.row();
            }),
            Code::kBusy);
  Walk reads(kernel);
  EXPECT_EQ(code_of([&] {
              for (;;) reads.get<int>({at});
            }),
            Code::kBusy);
}

}  // namespace
}  // namespace mhv::introspection
