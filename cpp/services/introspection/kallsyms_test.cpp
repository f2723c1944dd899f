#include "introspection/kallsyms.h"

#include <gtest/gtest.h>

#include <random>

#include "introspection/testing.h"

namespace mhv::introspection {
namespace {

using testing::KallsymsLayout;
using testing::make_kallsyms;
using testing::TestMemory;
using testing::TestSymbol;

constexpr std::uint64_t kBase = 0xffff'ffff'9a00'0000;

std::vector<TestSymbol> symbols(std::size_t count, bool processor_areas) {
  std::vector<TestSymbol> out;
  std::mt19937 random(1);
  std::uint64_t at = kBase;
  if (processor_areas) out = {{0, "Afixed_percpu_data"}, {0x2a000, "Acpu_info"}};
  while (out.size() < count) {
    out.push_back({at, (out.size() % 3 == 0 ? "T" : "t") + std::string("sys_call_") + std::to_string(out.size())});
    at += random() % 4000;
  }
  out[count / 2].text = "Dlinux_banner";
  out[count / 2 + 1].text = "t" + std::string(300, 'a');
  return out;
}

class Kernels : public ::testing::TestWithParam<KallsymsLayout> {};
INSTANTIATE_TEST_SUITE_P(Of, Kernels,
                         ::testing::Values(KallsymsLayout{false, false, true}, KallsymsLayout{false, false, false},
                                           KallsymsLayout{false, true, true}, KallsymsLayout{true, true, true},
                                           KallsymsLayout{true, true, false}));

TEST_P(Kernels, SayTheirSymbols) {
  const auto wanted = symbols(70'000, GetParam().processor_areas);
  TestMemory memory(48 << 20);
  std::mt19937_64 random(2);
  for (std::uint64_t at = 0; at < 8 << 20; at += 8) memory.put(at, random());
  memory.put_bytes(19 << 20, make_kallsyms(wanted, GetParam(), kBase));
  const auto found = find_kallsyms(memory);
  ASSERT_EQ(found.size(), 1u);
  const Kallsyms& kernel = found[0].symbols;
  ASSERT_EQ(kernel.size(), wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    EXPECT_EQ(kernel.at(i).at.value, wanted[i].address);
    EXPECT_EQ(kernel.at(i).type, wanted[i].text[0]);
    ASSERT_EQ(kernel.at(i).name, wanted[i].text.substr(1));
    EXPECT_TRUE(kernel.find(wanted[i].text.substr(1)));
  }
  const auto banner = wanted[wanted.size() / 2];
  EXPECT_EQ(kernel.find("linux_banner"), GuestVirt{banner.address});
  EXPECT_EQ(kernel.before({banner.address})->at.value, banner.address);
  EXPECT_EQ(kernel.find("no_such_symbol"), std::nullopt);
  if (!GetParam().processor_areas) {
    EXPECT_EQ(kernel.before({kBase - 1}), std::nullopt);
  }
}

// A byte anywhere: what is found then says what it did before, but for what the byte says.
TEST_P(Kernels, DamageIsNoCrash) {
  auto bytes = make_kallsyms(symbols(3'000, GetParam().processor_areas), GetParam(), kBase);
  ASSERT_TRUE(Kallsyms::parse(bytes));
  std::mt19937 random(3);
  for (int round = 0; round < 50; ++round) {
    const std::size_t at = random() % bytes.size();
    const std::byte before = bytes[at];
    bytes[at] ^= static_cast<std::byte>(1 + random() % 255);
    if (const auto found = Kallsyms::parse(bytes)) {
      EXPECT_EQ(found->size(), 3'000u);
    }
    bytes[at] = before;
  }
  for (std::size_t length = 0; length < bytes.size(); length += 997) {
    const auto found = Kallsyms::parse(std::span(bytes).first(length));
    EXPECT_TRUE(!found || found->size() == 3'000u);
  }
}

TEST(Kallsyms, NoneInRandomMemory) {
  TestMemory memory(16 << 20);
  EXPECT_TRUE(find_kallsyms(memory).empty());
  std::mt19937_64 random(4);
  for (std::uint64_t at = 0; at < 16 << 20; at += 8) memory.put(at, random());
  EXPECT_TRUE(find_kallsyms(memory).empty());
}

// A guest that writes numbers which rise everywhere, and digits.
TEST(Kallsyms, BaitTakesLittleTime) {
  TestMemory memory(32 << 20);
  for (std::uint64_t at = 0; at < 32 << 20; at += 4) memory.put(at, static_cast<std::uint32_t>(at / 4 + 1));
  for (std::uint64_t at = 64; at < 32 << 20; at += 4096)
    memory.put_bytes(at, std::as_bytes(std::span("0\0001\0002\0003\0004\0005\0006\0007\0008\0009", 20)));
  EXPECT_TRUE(find_kallsyms(memory).empty());
}

}  // namespace
}  // namespace mhv::introspection
