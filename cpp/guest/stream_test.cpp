#include "guest/stream.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cstring>

#include "base/code_of_test.h"
#include "base/fd.h"
#include "guest/fixture_test.h"
#include "guest/machine.h"

namespace mhv::guest {
namespace {

using testing::have_qemu;
using testing::Memory;
using testing::read_all;
using testing::run;
using testing::TempFolder;
using testing::TestQemu;

std::vector<std::byte> bytes(std::string_view text) {
  const auto view = std::as_bytes(std::span(text));
  return {view.begin(), view.end()};
}

std::vector<std::byte> small_state() {
  using namespace std::string_view_literals;
  return bytes(
      "QEVM\0\0\0\3"
      "\4\0\0\0\1\5timer\0\0\0\0\0\0\0\2body\x7e\0\0\0\1\0"sv);
}

TEST(DeviceStream, PutsTheConfigurationBetweenHeaderAndDevices) {
  using namespace std::string_view_literals;
  const auto state = small_state();
  const auto stream = device_stream("pc", state);
  auto wanted = bytes("QEVM\0\0\0\3\7\0\0\0\2pc"sv);
  wanted.insert(wanted.end(), state.begin() + 8, state.end());
  EXPECT_EQ(stream, wanted);
}

TEST(DeviceStream, RefusesWhatQemuDidNotWrite) {
  const auto good = small_state();
  const auto refused = [&](std::size_t at, int value) {
    auto state = good;
    state[at] = static_cast<std::byte>(value);
    return code_of([&] { device_stream("pc", state); });
  };
  EXPECT_EQ(refused(0, 'X'), Code::kCorrupt);
  EXPECT_EQ(refused(7, 4), Code::kCorrupt);
  EXPECT_EQ(refused(8, 1), Code::kCorrupt);
  EXPECT_EQ(refused(13, 0), Code::kCorrupt);
  EXPECT_EQ(refused(13, 255), Code::kCorrupt);
  EXPECT_EQ(refused(14, 7), Code::kCorrupt);
  EXPECT_EQ(refused(good.size() - 1, 1), Code::kCorrupt);
  for (std::size_t length = 0; length < good.size(); ++length) {
    const std::span<const std::byte> cut(good.data(), length);
    if (length > 0 && cut.back() == std::byte{0} && length >= 27) continue;  // ends like a stream does
    EXPECT_EQ(code_of([&] { device_stream("pc", cut); }), Code::kCorrupt) << length;
  }
  EXPECT_EQ(code_of([&] { device_stream("", good); }), Code::kInvalid);
  EXPECT_EQ(code_of([&] { device_stream(std::string(256, 'p'), good); }), Code::kInvalid);
  EXPECT_EQ(code_of([&] { device_stream("p\nc", good); }), Code::kInvalid);
}

TEST(FullStream, NamesEachBlockOnceAndZeroPagesInNineBytes) {
  std::vector<std::byte> stream;
  const std::vector<StreamBlock> blocks = {{"a", 2 * kPageSize}, {"b", kPageSize}};
  write_full_stream([&](auto part) { stream.insert(stream.end(), part.begin(), part.end()); }, "pc", blocks,
                    [](std::size_t block, std::uint64_t index, std::span<std::byte, kPageSize> out) {
                      if (block == 1 || index == 0) return false;
                      std::fill(out.begin(), out.end(), std::byte{0x5a});
                      return true;
                    },
                    small_state());
  const std::size_t head = 8 + 7;
  const std::size_t list = 5 + 4 + 8 + 8 + 2 * (2 + 8) + 8 + 5;
  const std::size_t pages = 5 + (8 + 2 + 1) + (8 + kPageSize) + (8 + 2 + 1) + 8 + 5;
  EXPECT_EQ(stream.size(), head + list + pages + small_state().size() - 8);
  EXPECT_EQ(stream[head], std::byte{1});
  EXPECT_EQ(stream[head + list], std::byte{3});
}

TEST(FullStream, RefusesBlocksThatAreNotWholePages) {
  const auto write = [](auto) {};
  const auto page = [](std::size_t, std::uint64_t, std::span<std::byte, kPageSize>) { return false; };
  for (const auto& block :
       {StreamBlock{"a", 1}, StreamBlock{"a", 0}, StreamBlock{"", kPageSize}, StreamBlock{"a", ~std::uint64_t{0xfff}}}) {
    EXPECT_EQ(code_of([&] { write_full_stream(write, "pc", std::span(&block, 1), page, small_state()); }), Code::kInvalid);
  }
}

TEST(SaveImage, HasLibvirtsHeader) {
  const auto header = save_image_header("<domain/>");
  ASSERT_EQ(header.size(), 92u + 10);
  EXPECT_EQ(std::memcmp(header.data(), "LibvirtQemudSave\2\0\0\0\12\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0", 36), 0);
  EXPECT_EQ(std::memcmp(header.data() + 92, "<domain/>", 10), 0);
  EXPECT_EQ(code_of([] { save_image_header(""); }), Code::kInvalid);
  EXPECT_EQ(code_of([] { save_image_header(std::string("a\0b", 3)); }), Code::kInvalid);
}

TEST(VmstateImage, IsSoundToQemuImg) {
  if (!have_qemu()) GTEST_SKIP() << "no QEMU";
  TempFolder folder;
  for (const std::size_t size : {std::size_t{1}, std::size_t{65536}, std::size_t{65537}, std::size_t{3'000'000}}) {
    const std::vector<std::byte> stream(size, std::byte{0xa5});
    const std::string path = folder.file("state.qcow2");
    {
      const Fd file = Fd::open(path, O_WRONLY | O_CREAT | O_TRUNC);
      write_all(file.get(), vmstate_image("the-point", stream), "image");
    }
    const auto check = run({"qemu-img", "check", path});
    EXPECT_EQ(check.status, 0) << check.text;
    EXPECT_NE(check.text.find("No errors"), std::string::npos) << check.text;
    EXPECT_NE(run({"qemu-img", "snapshot", "-l", path}).text.find("the-point"), std::string::npos);
    // Still sound after QEMU went back to the snapshot, and the state is what was put in.
    EXPECT_EQ(run({"qemu-img", "snapshot", "-a", "the-point", path}).status, 0);
    const auto again = run({"qemu-img", "check", path});
    EXPECT_EQ(again.status, 0) << again.text;
    const auto state = run({"qemu-io", "-f", "qcow2", "-c", "read -b -P 0xa5 0 " + std::to_string(size / 512 * 512), path});
    EXPECT_EQ(state.status, 0) << state.text;
  }
  EXPECT_EQ(code_of([] { vmstate_image("", std::vector<std::byte>(1)); }), Code::kInvalid);
  EXPECT_EQ(code_of([] { vmstate_image("a", {}); }), Code::kInvalid);
}

// A second QEMU that starts from a synthesized stream holds what the first one held, and goes on.
class IncomingTest : public ::testing::TestWithParam<Memory> {};

TEST_P(IncomingTest, ANewQemuGoesOnFromAFullStream) {
  if (!have_qemu()) GTEST_SKIP() << "no QEMU";
  TempFolder folder;
  const std::vector<std::string> vga = {"-vga", "std"};
  std::vector<std::byte> memory;
  std::vector<std::uint32_t> counted;
  const std::string path = folder.file("stream");
  {
    TestQemu source(folder, "source", vga, GetParam());
    const Ram ram = source.open_ram();
    Machine machine(source.qmp());
    machine.resume();
    source.wait_until_counter_passes(ram, 100);
    machine.stop();
    const auto state = testing::save(source.qmp());
    memory = read_all(ram);
    counted = source.counters(ram);
    std::vector<StreamBlock> blocks;
    for (const auto& block : ram.blocks()) blocks.push_back({block.name, block.bytes});
    const Fd file = Fd::open(path, O_WRONLY | O_CREAT | O_TRUNC);
    write_full_stream([&](auto part) { write_all(file.get(), part, "stream"); }, source.machine(), blocks,
                      [&](std::size_t block, std::uint64_t index, std::span<std::byte, kPageSize> out) {
                        const std::size_t at = (ram.blocks()[block].first.value + index) * kPageSize;
                        std::memcpy(out.data(), memory.data() + at, kPageSize);
                        static const std::vector<std::byte> zeros(kPageSize);
                        return std::memcmp(out.data(), zeros.data(), kPageSize) != 0;
                      },
                      state);
  }
  auto incoming = vga;
  incoming.insert(incoming.end(), {"-incoming", "file:" + path});
  TestQemu target(folder, "target", incoming, GetParam());
  while (target.qmp().call("query-status")["status"] == "inmigrate") {
  }
  const Ram ram = target.open_ram();
  ASSERT_EQ(ram.bytes(), memory.size());
  EXPECT_EQ(std::memcmp(read_all(ram).data(), memory.data(), memory.size()), 0);
  EXPECT_EQ(target.counters(ram), counted);
  Machine(target.qmp()).resume();
  target.wait_until_counter_passes(ram, counted.front());
}

INSTANTIATE_TEST_SUITE_P(Memories, IncomingTest, ::testing::Values(Memory::kPrivate, Memory::kShared),
                         [](const auto& parameter) { return parameter.param == Memory::kShared ? "shared" : "anonymous"; });

}  // namespace
}  // namespace mhv::guest
