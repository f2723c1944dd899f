#include "base/fd.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <filesystem>
#include <functional>
#include <thread>

#include "base/code_of_test.h"

namespace mhv {
namespace {

bool is_open(int number) { return ::fcntl(number, F_GETFD) >= 0; }

class FdTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "mhv-fd-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string folder_;
};

TEST_F(FdTest, ClosesWhatItOwnsOnce) {
  int number = -1;
  {
    const Fd fd = Fd::memory("x");
    number = fd.get();
    EXPECT_TRUE(is_open(number));
  }
  EXPECT_FALSE(is_open(number));
}

TEST_F(FdTest, MovesAndReleases) {
  Fd a = Fd::memory("a");
  Fd b = Fd::memory("b");
  const int first = a.get();
  const int second = b.get();
  b = std::move(a);
  EXPECT_FALSE(is_open(second));
  EXPECT_EQ(b.get(), first);
  EXPECT_FALSE(a);  // NOLINT(bugprone-use-after-move)
  Fd& same = b;
  b = std::move(same);
  EXPECT_TRUE(is_open(first));
  const int released = b.release();
  EXPECT_FALSE(b);
  EXPECT_TRUE(is_open(released));
  const Fd again = Fd::own(released);
  const Fd copy = again.duplicate();
  EXPECT_NE(copy.get(), again.get());
  EXPECT_NE(::fcntl(copy.get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_EQ(code_of([] { Fd().duplicate(); }), Code::kInternal);
}

TEST_F(FdTest, OpenNamesThePathInItsError) {
  try {
    Fd::open(folder_ + "/absent", O_RDONLY);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Code::kNotFound);
    EXPECT_THAT(e.what(), ::testing::HasSubstr(folder_ + "/absent"));
  }
  const Fd fd = Fd::open(folder_ + "/file", O_RDWR | O_CREAT | O_EXCL);
  EXPECT_NE(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_EQ(code_of([&] { Fd::open(folder_ + "/file", O_RDWR | O_CREAT | O_EXCL); }), Code::kExists);
}

TEST_F(FdTest, WholeBuffersAtOffsets) {
  const Fd fd = Fd::open(folder_ + "/file", O_RDWR | O_CREAT);
  const std::string text = "0123456789";
  pwrite_all(fd.get(), std::as_bytes(std::span(text)), 100, "file");
  std::array<std::byte, 10> back{};
  pread_all(fd.get(), back, 100, "file");
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(back.data()), back.size()), text);
  EXPECT_EQ(code_of([&] { pread_all(fd.get(), back, 101, "file"); }), Code::kCorrupt);
  EXPECT_EQ(code_of([&] { pread_all(-1, back, 0, "file"); }), Code::kInternal);
  pread_all(fd.get(), {}, 1 << 20, "nothing");
}

TEST_F(FdTest, WriteAllGoesOnAfterShortWrites) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const Fd reader = Fd::own(ends[0]);
  Fd writer = Fd::own(ends[1]);
  const std::string text(1 << 20, 'y');  // far more than a pipe holds
  std::size_t got = 0;
  std::thread sink([&] {
    std::array<char, 5000> part;
    for (ssize_t n = 0; (n = ::read(reader.get(), part.data(), part.size())) > 0;) got += static_cast<std::size_t>(n);
  });
  write_all(writer.get(), std::as_bytes(std::span(text)), "pipe");
  writer.close();
  sink.join();
  EXPECT_EQ(got, text.size());
}

TEST_F(FdTest, AFullDeviceIsNoSpace) {
  if (::access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full here";
  const Fd full = Fd::open("/dev/full", O_WRONLY);
  const std::string text = "x";
  try {
    write_all(full.get(), std::as_bytes(std::span(text)), "device");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Code::kNoSpace);
    EXPECT_FALSE(e.hint().empty());
  }
}

TEST_F(FdTest, ReadFileHasALimit) {
  const std::string path = folder_ + "/file";
  const std::string text(1000, 'z');
  replace_file(path, std::as_bytes(std::span(text)));
  EXPECT_EQ(read_file(path, 1000), text);
  EXPECT_EQ(code_of([&] { read_file(path, 999); }), Code::kInvalid);
  EXPECT_EQ(code_of([&] { read_file(path + "x", 999); }), Code::kNotFound);
}

TEST_F(FdTest, ReplaceFileLeavesTheOldOneWhenItFails) {
  const std::string path = folder_ + "/file";
  const std::string old = "old";
  replace_file(path, std::as_bytes(std::span(old)));
  const pid_t child = ::fork();
  if (child == 0) {  // a file size limit stands for a full disk
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{10, 10};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      const std::string longer(100, 'n');
      replace_file(path, std::as_bytes(std::span(longer)));
    } catch (const Error&) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_EQ(read_file(path, 100), "old");
}

TEST(Errors, HaveTheCodeOfTheirErrno) {
  for (const auto& [number, code] : {std::pair{ENOSPC, Code::kNoSpace},
                                     {EDQUOT, Code::kNoSpace},
                                     {ENOENT, Code::kNotFound},
                                     {EEXIST, Code::kExists},
                                     {EPERM, Code::kPermission},
                                     {EACCES, Code::kPermission},
                                     {ESRCH, Code::kGone},
                                     {EBUSY, Code::kBusy},
                                     {EIO, Code::kInternal}}) {
    EXPECT_EQ(code_of([&, number = number] { throw_errno("x", number); }), code);
  }
  EXPECT_STREQ(code_name(Code::kGone), "gone");
  EXPECT_STREQ(code_name(static_cast<Code>(99)), "internal");
}

}  // namespace
}  // namespace mhv
