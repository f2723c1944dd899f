#include "guest/ram.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "guest/fixture_test.h"
#include "guest/page_ranges.h"
#include "guest/ram_mapping.h"

namespace mhv::guest {
namespace {

constexpr const char* kListing =
    "              Block Name    PSize              Offset               Used              Total                HVA  RO\r\n"
    "                  pc.ram    4 KiB  0x0000000000000000 0x0000000004000000 0x0000000004000000 0x00007fd997e00000  rw\r\n"
    "   0000:00:02.0/vga.vram    2 MiB  0x0000000004080000 0x0000000001000000 0x0000000001000000 0x00007fd9a1a00000  rw\r\n"
    "    /rom@etc/acpi/tables    4 KiB  0x00000000050c0000 0x0000000000020000 0x0000000000200000 0x00007fd9a1400000  ro\r\n"
    "                  unused    4 KiB  0x00000000060c0000 0x0000000000000000 0x0000000000200000 0x0000000000000000  ro\r\n";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  text.replace(text.find(from), from.size(), to);
  return text;
}

TEST(RamblockListing, GivesNameLengthAddressAndRights) {
  const auto blocks = parse_ramblock_listing(kListing);
  ASSERT_EQ(blocks.size(), 3u);
  EXPECT_EQ(blocks[0].name, "pc.ram");
  EXPECT_EQ(blocks[0].used_bytes, 64u << 20);
  EXPECT_EQ(blocks[0].host_virt, 0x7fd997e00000u);
  EXPECT_FALSE(blocks[0].read_only);
  EXPECT_EQ(blocks[1].page_bytes, 2u << 20);
  EXPECT_EQ(blocks[2].used_bytes, 0x20000u);
  EXPECT_TRUE(blocks[2].read_only);
}

TEST(RamblockListing, RefusesAnythingElse) {
  const std::string good = kListing;
  const std::string head = good.substr(0, good.find('\n') + 1);
  for (const std::string& bad : {
           std::string(),
           head,
           std::string("unknown command: 'info ramblock'\r\n"),
           replaced(good, "  HVA", "     "),
           replaced(good, "0x00007fd997e00000  rw", "0x00007fd997e00000"),
           replaced(good, "0x00007fd997e00000  rw", "0x00007fd997e00000  rx"),
           replaced(good, "0x00007fd997e00000", "0x00007fd997e00010"),
           replaced(good, "0x00007fd997e00000", "0xffffffffffe00000"),
           replaced(good, "0x00007fd997e00000", "0x00007fd9a1b00000"),  // inside vga.vram
           replaced(good, "0x0000000004000000 0x0000000004000000", "0x0000000008000000 0x0000000004000000"),
           replaced(good, "0x0000000004000000 0x0000000004000000", "0xfffffffffffff000 0xfffffffffffff000"),
           replaced(good, "0x0000000000020000", "0x0000000000020001"),
           replaced(good, "4 KiB", "4 kib"),
           replaced(good, "4 KiB", "0 KiB"),
           replaced(good, "    /rom@etc/acpi/tables", "                  pc.ram"),
       }) {
    EXPECT_THROW(parse_ramblock_listing(bad), Error) << bad;
  }
  std::string many = head;
  for (int i = 0; i < 300; ++i) {
    many += "b" + std::to_string(i) + " 4 KiB 0x0 0x1000 0x1000 0x" + std::to_string(10000 + 2 * i) + "000 rw\r\n";
  }
  EXPECT_THROW(parse_ramblock_listing(many), Error);
}

TEST(Maps, GivesRangesRightsAndPaths) {
  const auto maps = parse_maps(
      "7fd990021000-7fd994000000 ---p 00000000 00:00 0 \n"
      "7fd997e00000-7fd99be00000 rw-s 00001000 00:01 4711                       /memfd:pc ram (deleted)\n"
      "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n");
  ASSERT_EQ(maps.size(), 3u);
  EXPECT_FALSE(maps[0].readable);
  EXPECT_EQ(maps[0].path, "");
  EXPECT_TRUE(maps[1].shared && maps[1].readable && maps[1].writable);
  EXPECT_EQ(maps[1].offset, 0x1000u);
  EXPECT_EQ(maps[1].path, "/memfd:pc ram (deleted)");
}

TEST(Maps, RefusesAnythingElse) {
  for (const char* bad : {"x\n", "1000-2000\n", "1000-1000 rw-p 0 00:00 0\n", "2000-1000 rw-p 0 00:00 0\n", "1000-2000 rw-x 0 00:00 0\n",
                          "1000-2001 rw-p 0 00:00 0\n", "1000-2000 rw-p 0 0000 0\n", "1000-2000 rw-p 0 00:00 x\n",
                          "1000-3000 rw-p 0 00:00 0\n2000-4000 rw-p 0 00:00 0\n"}) {
    EXPECT_THROW(parse_maps(bad), Error) << bad;
  }
  EXPECT_FALSE(parse_maps(read_file("/proc/self/maps", 1u << 24)).empty());
}

TEST(PageRanges, JoinAndSubtract) {
  std::vector<PageRange> a = {{{10}, 5}, {{0}, 2}, {{2}, 3}, {{12}, 1}, {{20}, 0}};
  normalize(a);
  EXPECT_EQ(a, (std::vector<PageRange>{{{0}, 5}, {{10}, 5}}));
  EXPECT_EQ(subtract(a, {{{1}, 2}, {{4}, 8}}), (std::vector<PageRange>{{{0}, 1}, {{3}, 1}, {{12}, 3}}));
  EXPECT_EQ(subtract(a, {}), a);
  EXPECT_TRUE(subtract(a, {{{0}, 100}}).empty());
  EXPECT_EQ(count_pages(a), 10u);
  std::vector<PageRange> last = {{{0xfffffff0}, 0xf}};
  EXPECT_EQ(subtract(last, {{{0xfffffff1}, 0xe}}), (std::vector<PageRange>{{{0xfffffff0}, 1}}));
}

// Two blocks of a child: a shared file and private memory, which the child filled.
class RamTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kBytes = 16 * kPageSize;
  void SetUp() override {
    file_ = Fd::memory("ram");
    ASSERT_EQ(::ftruncate(file_.get(), kBytes + kPageSize), 0);
    private_ = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_EQ(::pipe2(pipe_, O_CLOEXEC), 0);
    child_ = ::fork();
    if (child_ == 0) {
      static_cast<char*>(private_)[3 * kPageSize] = 'p';
      char ready = 1;
      if (::write(pipe_[1], &ready, 1) != 1) _exit(1);
      for (;;) ::pause();
    }
    char ready = 0;
    ASSERT_EQ(::read(pipe_[0], &ready, 1), 1);
  }
  void TearDown() override {
    end_child();
    ::munmap(private_, kBytes);
    ::close(pipe_[0]);
    ::close(pipe_[1]);
  }
  void end_child() {
    if (child_ <= 0) return;
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
    child_ = -1;
  }
  Ram open() {
    std::vector<Fd> fds;
    fds.push_back(file_.duplicate());
    fds.push_back(Fd::open("/proc/" + std::to_string(child_) + "/mem", O_RDWR));
    RamBlock shared{"shared", {0x10000000}, kBytes, false, true, kPageSize, fds[0].get(), {}};
    RamBlock anonymous{"private", {reinterpret_cast<std::uintptr_t>(private_)}, kBytes, false, false, 0, fds[1].get(), {}};
    return Ram({shared, anonymous}, std::move(fds));
  }
  Fd file_;
  void* private_ = nullptr;
  int pipe_[2] = {-1, -1};
  pid_t child_ = -1;
};

TEST_F(RamTest, LaysBlocksEndToEnd) {
  const Ram ram = open();
  EXPECT_EQ(ram.pages(), 32u);
  EXPECT_EQ(ram.block_of({15}).name, "shared");
  EXPECT_EQ(ram.block_of({16}).name, "private");
  EXPECT_EQ(ram.host_of({17}).value, reinterpret_cast<std::uintptr_t>(private_) + kPageSize);
  EXPECT_EQ(ram.pages_of({0x10002000}, 2 * kPageSize), (PageRange{{2}, 2}));
  EXPECT_THROW(ram.block_of({32}), Error);
  EXPECT_THROW(ram.pages_of({0x10000000}, kBytes + kPageSize), Error);
  EXPECT_THROW(ram.pages_of({0x10000001}, kPageSize), Error);
  EXPECT_THROW(ram.pages_of({0x1000}, kPageSize), Error);
}

TEST_F(RamTest, ReadsAndWritesBothKindsAndLeavesHolesAlone) {
  Ram ram = open();
  std::vector<std::byte> page(kPageSize, std::byte{1});
  ram.read({{5}, 1}, page);
  EXPECT_EQ(std::count(page.begin(), page.end(), std::byte{0}), static_cast<std::ptrdiff_t>(kPageSize));
  struct stat info {};
  ASSERT_EQ(::fstat(file_.get(), &info), 0);
  EXPECT_EQ(info.st_blocks, 0);
  ram.read({{19}, 1}, page);
  EXPECT_EQ(page[0], std::byte{'p'});
  const std::vector<std::byte> two(2 * kPageSize, std::byte{7});
  std::vector<std::byte> back(2 * kPageSize);
  for (const std::uint32_t first : {14u, 30u}) {
    ram.write({first}, two);
    ram.read({{first}, 2}, back);
    EXPECT_EQ(back, two);
  }
  EXPECT_THROW(ram.read({{15}, 2}, back), Error);
  EXPECT_THROW(ram.write({15}, two), Error);
  EXPECT_THROW(ram.read({{0}, 1}, back), Error);
}

TEST_F(RamTest, SaysThatQemuEnded) {
  const Ram ram = open();
  end_child();
  std::vector<std::byte> page(kPageSize);
  try {
    ram.read({{16}, 1}, page);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kGone) << error.what();
  }
}

TEST(RamBlocks, AreChecked) {
  const auto make = [](std::uint64_t host, std::uint64_t bytes) {
    return Ram({RamBlock{"a", {host}, bytes, false, false, 0, -1, {}}}, {});
  };
  EXPECT_THROW(make(0x1001, kPageSize), Error);
  EXPECT_THROW(make(0x1000, 0), Error);
  EXPECT_THROW(make(0x1000, 100), Error);
  EXPECT_THROW(make(0x1000, ~std::uint64_t{0xfff}), Error);
  EXPECT_THROW(make(0x1000, std::uint64_t{1} << 45), Error);
  EXPECT_THROW(Ram({}, {}), Error);
}

TEST(RamMapping, WritesWhatTheFileHolds) {
  for (const bool sealed : {true, false}) {
    Fd file = Fd::own(::memfd_create("block", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    ASSERT_EQ(::ftruncate(file.get(), 8 * kPageSize), 0);
    if (sealed) {
      ASSERT_EQ(::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
    }
    RamBlock block;
    block.name = "block";
    block.host = {0x10000};
    block.bytes = 6 * kPageSize;
    block.shared = true;
    block.fd = file.get();
    block.fd_offset = kPageSize;
    std::vector<Fd> fds;
    fds.push_back(std::move(file));
    const Ram ram({block}, std::move(fds));
    RamMapping mapping(ram);
    ASSERT_EQ(mapping.populate({{2}, 3}), sealed) << "a file that may shrink under the mapping is not written through it";
    if (!sealed) continue;
    std::memset(mapping.at({3}), 'x', kPageSize);
    std::vector<std::byte> page(kPageSize);
    ram.read({{3}, 1}, page);
    EXPECT_EQ(page, std::vector<std::byte>(kPageSize, std::byte{'x'}));
    ram.read({{4}, 1}, page);
    EXPECT_EQ(page, std::vector<std::byte>(kPageSize));
  }
}

TEST(Ram, ADuplicateOutlivesTheOriginal) {
  Fd file = Fd::memory("block");
  ASSERT_EQ(::ftruncate(file.get(), kPageSize), 0);
  RamBlock block;
  block.name = "block";
  block.bytes = kPageSize;
  block.shared = true;
  block.fd = file.get();
  std::vector<Fd> fds;
  fds.push_back(std::move(file));
  auto original = std::make_unique<Ram>(std::vector<RamBlock>{block}, std::move(fds));
  Ram copy = original->duplicate();
  const std::vector<std::byte> page(kPageSize, std::byte{'y'});
  original->write({0}, page);
  original.reset();
  std::vector<std::byte> seen(kPageSize);
  copy.read({{0}, 1}, seen);
  EXPECT_EQ(seen, page);
}

}  // namespace
}  // namespace mhv::guest
