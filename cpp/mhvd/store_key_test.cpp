#include "mhvd/store_key.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/temp_folder_test.h"
#include "mhvd/config.h"

namespace mhv::mhvd {
namespace {

using ::testing::HasSubstr;

class StoreKey : public testing::Test {
 protected:
  void write(const std::string& text, mode_t mode = 0400) {
    std::filesystem::remove(path_);
    std::ofstream(path_, std::ios::binary) << text;
    ASSERT_EQ(::chmod(path_.c_str(), mode), 0);
  }
  void expect_refused(Code code, const char* why) {
    try {
      read_store_key(path_);
      ADD_FAILURE() << "taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_THAT(error.what(), HasSubstr(why));
      EXPECT_THAT(error.what(), HasSubstr(path_));
      EXPECT_THAT(error.hint(), HasSubstr("ch"));  // mod, own
    }
  }

  TempFolder folder_;
  const std::string path_ = folder_.file("key");
};

TEST_F(StoreKey, IsReadInBothForms) {
  const std::string text = "\n23456789 123456789 123456789 \0" + std::string("\n", 1) + "x";
  ASSERT_EQ(text.size(), 32u);
  write(text);
  EXPECT_EQ(read_store_key(path_).text(), text);
  write("00ff" + std::string(60, 'a') + "\n");
  EXPECT_EQ(read_store_key(path_).text(), std::string("\0\xff", 2) + std::string(30, '\xaa'));
}

TEST_F(StoreKey, IsRefused) {
  expect_refused(Code::kNotFound, "cannot read");
  for (const std::size_t bytes : {0, 31, 33, 64, 65, 66, 100}) {
    write(std::string(bytes, 'x'));
    expect_refused(Code::kInvalid, "neither 32 bytes");
  }
  write(std::string(63, 'a') + "g\n");
  expect_refused(Code::kInvalid, "neither 32 bytes");
  write(std::string(65, 'a') + "\n");
  expect_refused(Code::kInvalid, "neither 32 bytes");
  for (const mode_t mode : {0440, 0404, 0420, 0644}) {
    write(std::string(32, 'x'), mode);
    expect_refused(Code::kPermission, "others than its owner");
  }
  std::filesystem::remove(path_);
  std::filesystem::create_directory(path_);
  expect_refused(Code::kInvalid, "no regular file");
  std::filesystem::remove(path_);
  ASSERT_EQ(::mkfifo(path_.c_str(), 0400), 0);
  expect_refused(Code::kInvalid, "no regular file");
  if (::geteuid() != 0) return;
  std::filesystem::remove(path_);
  write(std::string(32, 'x'));
  ASSERT_EQ(::chown(path_.c_str(), 12345, 12345), 0);
  expect_refused(Code::kPermission, "user 12345");
}

TEST(GuestStoreKey, IsOfOneGuestAndOneHost) {
  const keys::Key host(std::string(32, 'h')), other(std::string(32, 'i'));
  const auto text = [](const keys::Key& key) { return std::string(key.text()); };
  const std::string one = text(guest_store_key(host, "11111111-2222-3333-4444-555555555555"));
  EXPECT_EQ(text(guest_store_key(host, "11111111-2222-3333-4444-555555555555")), one);
  EXPECT_NE(text(guest_store_key(host, "11111111-2222-3333-4444-555555555556")), one);
  EXPECT_NE(text(guest_store_key(other, "11111111-2222-3333-4444-555555555555")), one);
}

TEST(StoreKeyOptions, AreRead) {
  const char* const given[] = {"mhvd", "--config", "/dev/null", "--store-key-file", "/k", "--refuse-plain-stores"};
  const ParsedConfig parsed = parse_config(6, given);
  ASSERT_TRUE(parsed.run);
  EXPECT_EQ(parsed.config.store_key_file, "/k");
  EXPECT_TRUE(parsed.config.refuse_plain_stores);
  EXPECT_TRUE(parse_config(3, given).config.store_key_file.empty());
  const char* const half[] = {"mhvd", "--config", "/dev/null", "--refuse-plain-stores"};
  EXPECT_FALSE(parse_config(4, half).run);
}

}  // namespace
}  // namespace mhv::mhvd
