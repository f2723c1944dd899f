// A kernel made by hand against what its vendor built: what was changed before anybody looked is found, and what the vendor's own tables
// say may be changed is not.
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "base/code_of_test.h"
#include "base/temp_folder_test.h"
#include "integrity/vendor_files.h"
#include "integrity/vendor_testing.h"

namespace mhv::integrity {
namespace {

using namespace testing;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class VendorTest : public ::testing::Test {
 protected:
  VendorTest() { MadeVendor::put_into(made); }
  // What is found when it is measured now.
  std::vector<Finding> look() { return Checker(kernel, made.registers(), image).check(made.registers()); }
  void expect_found(std::uint64_t number, const std::string& why = "") {
    const auto found = look();
    ASSERT_EQ(kinds(found), "vendor_text") << why;
    EXPECT_EQ(found[0].subject, "fill_" + std::to_string(number)) << why << found[0].detail;
  }

  MadeKernel made;
  Kernel kernel{made.memory, made.paging()};
  const std::vector<std::byte> file = MadeVendor().file();
  std::shared_ptr<const VendorImage> image = std::make_shared<VendorImage>(file);
};

TEST_F(VendorTest, WhatTheKernelMadeOfItIsRight) {
  Checker checker(kernel, made.registers(), image);
  EXPECT_THAT(checker.unchecked(), IsEmpty());
  EXPECT_EQ(checker.vendor_sites(), 10u);
  for (const Finding& one : checker.check(made.registers())) ADD_FAILURE() << one.kind << " " << one.subject << ": " << one.detail;
}

TEST_F(VendorTest, PatchedBeforeAnybodyLooked) {
  const std::uint64_t was = made.word(function(kRecv));
  made.put_branch(function(kRecv), 0xe9, kHeap + 0x10'0000);
  EXPECT_EQ(kinds(Checker(kernel, made.registers()).check(made.registers())), "") << "nobody knows";
  Checker checker(kernel, made.registers(), image);
  for (int i = 0; i < 2; ++i) {
    const auto found = checker.check(made.registers());
    ASSERT_EQ(kinds(found), "vendor_text") << "for as long as it is there";
    EXPECT_EQ(found[0].subject, "tcp_recvmsg");
    EXPECT_EQ(found[0].address.value, function(kRecv));
  }
  made.put(function(kRecv), was);
  EXPECT_EQ(kinds(checker.check(made.registers())), "kernel_text") << "it was measured with the change";
}

TEST_F(VendorTest, EachByteOfTextCounts) {
  for (const std::uint64_t place : {std::uint64_t{0x20}, std::uint64_t{0xfff}, std::uint64_t{0x1000}, at::text_end - 1}) {
    const auto was = static_cast<std::uint8_t>(made.word(kImage + place));
    made.put(kImage + place, static_cast<std::uint8_t>(was ^ 1));
    EXPECT_EQ(kinds(look()), "vendor_text") << place;
    made.put(kImage + place, was);
  }
  EXPECT_EQ(kinds(look()), "");
}

TEST_F(VendorTest, AddressesMoveWithTheKernel) {
  for (const std::uint64_t place : {0, 8, 16}) {
    const auto was = made.word(function(kAddressed) + place);
    made.put(function(kAddressed) + place, was + 64);
    expect_found(kAddressed);
    made.put(function(kAddressed) + place, was);
  }
}

TEST_F(VendorTest, Returns) {
  made.put_bytes(function(kReturning), {0xc3, 0xcc, 0xcc, 0xcc, 0x90});
  expect_found(kReturning, "another byte behind it");
  made.put_branch(function(kReturning), 0xe9, function(kReturnThunk));
  EXPECT_EQ(kinds(look()), "") << "by the thunk";
  made.put_branch(function(kReturning), 0xe9, function(kFast));
  expect_found(kReturning, "elsewhere");
}

TEST_F(VendorTest, Retpolines) {
  made.put_bytes(function(kThrough), {0x41, 0xff, 0xd2, 0x66, 0x90});
  expect_found(kThrough, "by another register");
  made.put_bytes(function(kThrough), {0x41, 0xff, 0xe3, 0x66, 0x90});
  expect_found(kThrough, "a jump, not a call");
  made.put_branch(function(kThrough), 0xe8, function(kFast));
  expect_found(kThrough, "no thunk");
  // For processors with the fault ITS the kernel makes thunks elsewhere.
  made.put_bytes(kModules + 0x18'0020, {0x41, 0xff, 0xe3});
  made.put_branch(function(kThrough), 0xe8, kModules + 0x18'0020);
  EXPECT_EQ(kinds(look()), "");
  made.put_bytes(kModules + 0x18'0020, {0x41, 0xff, 0xe2});
  expect_found(kThrough, "a thunk of another register");
  made.put_bytes(kModules + 0x18'0008, {0x41, 0xff, 0xe3});
  made.put_branch(function(kThrough), 0xe8, kModules + 0x18'0008);
  expect_found(kThrough, "in the lower half of a line");
}

TEST_F(VendorTest, LocksAndSealsAndConstants) {
  made.put_bytes(function(kLocking), {0xf0});
  EXPECT_EQ(kinds(look()), "") << "several processors";
  made.put_bytes(function(kLocking), {0x90});
  expect_found(kLocking);
  made.put_bytes(function(kLocking), {0x3e});
  made.put_bytes(function(kSealed), {0x90, 0x90, 0x90, 0x90});
  expect_found(kSealed);
  made.put_bytes(function(kSealed), {0xf3, 0x0f, 0x1e, 0xfa});
  made.put(function(kConstant), std::uint64_t{1});
  expect_found(kConstant, "not what the variable holds");
}

TEST_F(VendorTest, IndirectCalls) {
  made.put_branch(function(kIndirect), 0xe8, function(kRead));
  expect_found(kIndirect, "not what the pointer holds");
  made.put(function(kOps), kHeap + 0x10'0000);
  made.put_branch(function(kIndirect), 0xe8, kHeap + 0x10'0000);
  EXPECT_THAT(kinds(look()), HasSubstr("vendor_text vendor_text")) << "a pointer that was forged too";
  made.put(function(kOps), function(kFast));
  made.put_bytes(function(kIndirect), {0x9c, 0x58, 0x0f, 0x1f, 0x44, 0x00, 0x00});
  EXPECT_EQ(kinds(look()), "") << "what a kernel has in its place";
  made.put_bytes(function(kIndirect), {0x9c, 0x58, 0x0f, 0x1f, 0x44, 0x00, 0x01});
  expect_found(kIndirect);
}

TEST_F(VendorTest, Alternatives) {
  made.put_bytes(function(kChosen), {0x0f, 0xae, 0xf0, 0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00});
  EXPECT_EQ(kinds(look()), "") << "the code itself, with its NOPs";
  made.put_branch(function(kChosen), 0xe8, function(kFast));
  made.put_bytes(function(kChosen) + 5, {0xeb, 0x02, 0xcc, 0xcc});
  EXPECT_EQ(kinds(look()), "") << "NOPs that are jumped over";
  made.put_bytes(function(kChosen) + 5, {0xeb, 0x01, 0xcc, 0xcc});
  expect_found(kChosen);
  made.put_branch(function(kChosen), 0xe8, function(kRead));
  made.put_bytes(function(kChosen) + 5, {0x0f, 0x1f, 0x40, 0x00});
  expect_found(kChosen, "no alternative calls that");
}

TEST_F(VendorTest, WhatTheKernelChangesWhileItRuns) {
  made.put_branch(function(kLabelled), 0xe9, function(kLabelled) + 32);
  made.put_branch(function(kTraced), 0xe8, function(kCaller));
  made.put_branch(function(kCalling), 0xe8, function(kOtherCalled));
  made.put(kImage + at::key, function(kOtherCalled));
  EXPECT_EQ(kinds(look()), "");
  made.put_branch(function(kLabelled), 0xe9, function(kLabelled) + 16);
  expect_found(kLabelled);
  made.put_bytes(function(kLabelled), {0x0f, 0x1f, 0x44, 0, 0});
  made.put_branch(function(kTraced), 0xe8, function(kRead));
  expect_found(kTraced);
  made.put_branch(function(kTraced), 0xe8, function(kCaller));
  made.put_branch(function(kCalling), 0xe8, function(kRead));
  expect_found(kCalling, "not what the key holds");
}

// The guest's own tables say that it may be changed; the vendor's do not.
TEST_F(VendorTest, TablesOfTheGuestAreNotAsked) {
  made.put(kImage + at::jumps, static_cast<std::int32_t>(function(kRead) - (kImage + at::jumps)));
  made.put(kImage + at::jumps + 4, static_cast<std::int32_t>(function(kWrite) - (kImage + at::jumps + 4)));
  made.put_branch(function(kRead), 0xe9, function(kWrite));
  expect_found(kRead);
}

TEST_F(VendorTest, Probes) {
  const std::uint64_t probe = MadeKernel::heap(0x5000), place = function(kProbed) + 4;
  const auto was = static_cast<std::uint8_t>(made.word(place));
  made.put_bytes(place, {0xcc});
  expect_found(kProbed, "nobody's probe");
  made.put(probe + 0x10, place);
  made.put(probe + 0x18, MadeKernel::module(0) - 0x8000);
  made.put(probe + 0x20, was);
  made.put(kImage + at::kprobes, probe);
  EXPECT_EQ(kinds(look()), "") << "an administrator's";
}

TEST_F(VendorTest, KernelWhereItsVendorsCannotBe) {
  const std::vector<std::byte> other = MadeVendor(kImage + kPageSize).file();
  Checker checker(kernel, made.registers(), std::make_shared<VendorImage>(other));
  EXPECT_EQ(checker.vendor_sites(), 0u);
  EXPECT_THAT(checker.unchecked(), ::testing::ElementsAre(HasSubstr("not where its vendor's can be")));
}

TEST_F(VendorTest, KernelThatCountsItsCallsIsNotAccused) {
  made.put(kImage + at::counting, std::uint8_t{1});
  made.put_bytes(function(kRecv), {0xe8, 0, 0, 0, 0});
  Checker checker(kernel, made.registers(), image);
  EXPECT_THAT(checker.unchecked(), ::testing::ElementsAre(HasSubstr("retbleed=stuff")));
  EXPECT_THAT(checker.check(made.registers()), IsEmpty());
}

TEST(VendorImage, RefusesWhatIsNone) {
  const std::vector<std::byte> file = MadeVendor().file();
  const auto code = [](std::span<const std::byte> bytes) { return code_of([&] { VendorImage image(bytes); }); };
  EXPECT_EQ(code({}), Code::kCorrupt);
  for (const std::size_t bytes : {std::size_t{40}, std::size_t{64}, std::size_t{5000}, file.size() / 2}) {
    EXPECT_EQ(code(std::span(file).first(bytes)), Code::kCorrupt) << bytes;
  }
  for (const std::size_t place : {0u, 4u, 18u, 40u, 58u, 60u, 62u}) {  // of the ELF header
    std::vector<std::byte> other = file;
    other[place] ^= std::byte{0xff};
    EXPECT_EQ(code(other), Code::kCorrupt) << place;
  }
}

TEST(VendorFiles, AreFoundByTheBanner) {
  const TempFolder folder;
  const std::string banner = "Linux version 6.1.0-test (gcc) #1 SMP";
  EXPECT_EQ(find_vendor_file(folder.file("none"), banner).name, "no reference");
  const auto write = [&](const char* name, std::span<const std::byte> bytes) {
    std::ofstream(folder.file(name), std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  };
  const auto file = MadeVendor().file();
  write("a", {});
  write("b", std::span(file).first(100));
  auto found = find_vendor_file(folder.path(), banner);
  EXPECT_EQ(found.image, nullptr);
  EXPECT_THAT(found.name, HasSubstr("b: that is no kernel"));
  write("c", file);
  EXPECT_EQ(find_vendor_file(folder.path(), "Linux version 6.1.0").image, nullptr) << "a part of a banner";
  found = find_vendor_file(folder.path(), banner);
  ASSERT_NE(found.image, nullptr);
  EXPECT_EQ(found.name, "c");
  EXPECT_EQ(found.image->banner(), banner);
}

}  // namespace
}  // namespace mhv::integrity
