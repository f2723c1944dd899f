#include "mhvd/service_vm.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "base/code_of_test.h"
#include "base/temp_folder_test.h"

namespace mhv::mhvd {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::uint64_t kMib = 1 << 20;

Fd file_of_size(std::uint64_t bytes) {
  Fd out = Fd::memory("memory");
  if (::ftruncate(out.get(), static_cast<off_t>(bytes)) != 0) throw_errno("cannot make memory");
  return out;
}

class ServiceVm : public ::testing::Test {
 protected:
  ServiceVm() {
    std::filesystem::create_directories(folder_.file("image"));
    std::filesystem::create_directories(folder_.file("one/bin"));
    std::ofstream(folder_.file("image/vmlinuz")) << "kernel";
    std::ofstream(folder_.file("image/initrd.gz")) << "first files";
    std::ofstream(folder_.file("one/manifest.json"))
        << R"({"name": "one", "version": "1", "vendor": "v", "abi": 1, "program": "bin/p", "policy": "fail-open", "resources": {"memory_mib": 100}})";
    std::ofstream(folder_.file("one/bin/p")) << "a program";
    package_.folder = folder_.file("one");
    package_.manifest = stack::parse_manifest(read_file(folder_.file("one/manifest.json"), 4096));
  }
  JailedProgram with_memory(const std::vector<std::uint64_t>& sizes) {
    std::vector<Fd> fds;
    fds.push_back(file_of_size(4 * kMib));
    for (const std::uint64_t bytes : sizes) fds.push_back(file_of_size(bytes));
    return in_machine(folder_.file("image"), package_, std::move(fds));
  }

  TempFolder folder_;
  LayerPackage package_;
};

TEST(Pieces, ArePowersOfTwo) {
  EXPECT_THAT(pieces_of(192 * kMib), ElementsAre(128 * kMib, 64 * kMib));
  EXPECT_THAT(pieces_of(kMib), ElementsAre(kMib));
  EXPECT_THAT(pieces_of(kMib + 4096 + 1), ElementsAre(kMib, 4096));
  EXPECT_THAT(pieces_of(0), ElementsAre());
}

TEST_F(ServiceVm, HasItsChannelAndTheGuestsMemoryAsDevices) {
  const JailedProgram program = with_memory({192 * kMib, 16 * kMib});
  EXPECT_EQ(program.fds.size(), 5u);
  EXPECT_THAT(program.arguments, Contains(HasSubstr("mhv.layer=bin/p mhv.channel=03 mhv.memory=04+05,06")));
  EXPECT_THAT(program.arguments,
              Contains("memory-backend-file,id=m5,share=on,readonly=on,rom=on,size=67108864,offset=134217728,mem-path=/fd/6"));
  EXPECT_THAT(program.arguments, Contains("memory-backend-file,id=m3,share=on,readonly=off,rom=off,size=4194304,offset=0,mem-path=/fd/3"));
  EXPECT_THAT(program.arguments, Contains("196M"));
}

TEST_F(ServiceVm, FindsThePackageBehindTheFirstFiles) {
  const JailedProgram program = with_memory({});
  const std::string files = read_file("/proc/self/fd/" + std::to_string(program.fds[2].get()), kMib);
  EXPECT_TRUE(files.starts_with("first files"));
  struct stat status {};
  ASSERT_EQ(::fstat(program.fds[2].get(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0444u);
  std::ofstream(folder_.file("package.cpio")) << files.substr(512);
  const std::unique_ptr<FILE, int (*)(FILE*)> listing(::popen(("cpio -itv < " + folder_.file("package.cpio") + " 2>&1").c_str(), "r"),
                                                      &::pclose);
  std::string listed(4096, '\0');
  listed.resize(std::fread(listed.data(), 1, listed.size(), listing.get()));
  for (const char* const one : {"layer\n", "layer/bin\n", "layer/bin/p\n", "layer/manifest.json\n"}) EXPECT_THAT(listed, HasSubstr(one));
}

TEST_F(ServiceVm, SaysWhatItLacks) {
  EXPECT_NO_THROW(with_memory(std::vector<std::uint64_t>(9, 7 * kMib)));  // 27 devices and the channel
  EXPECT_EQ(code_of([&] { with_memory(std::vector<std::uint64_t>(10, 7 * kMib)); }), Code::kUnsupported);
  std::filesystem::remove(folder_.file("image/vmlinuz"));
  EXPECT_EQ(code_of([&] { with_memory({}); }), Code::kUnsupported);
}

}  // namespace
}  // namespace mhv::mhvd
