#include "package/package.h"

#include <archive.h>
#include <archive_entry.h>
#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "base/code_of_test.h"
#include "base/fd.h"
#include "base/temp_folder_test.h"
#include "package/archive.h"

namespace mhv::package {
namespace {

namespace fs = std::filesystem;

constexpr const char* kManifest =
    R"({"name": "heat", "version": "1.0", "vendor": "acme", "abi": 1, "program": "bin/heat", "policy": "fail-open"})";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  return text.replace(text.find(from), from.size(), to);
}

void put(const std::string& file, const std::string& text, unsigned mode = 0644) {
  fs::create_directories(fs::path(file).parent_path());
  std::ofstream(file, std::ios::binary) << text;
  ::chmod(file.c_str(), mode);
}

void make_keys(const std::string& secret, const std::string& open) {
  const std::shared_ptr<EVP_PKEY> key(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"), &EVP_PKEY_free);
  const std::unique_ptr<FILE, int (*)(FILE*)> to_secret(std::fopen(secret.c_str(), "w"), &std::fclose);
  const std::unique_ptr<FILE, int (*)(FILE*)> to_open(std::fopen(open.c_str(), "w"), &std::fclose);
  PEM_write_PrivateKey(to_secret.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  PEM_write_PUBKEY(to_open.get(), key.get());
}

// One thing in a tar that mhvctl would never make.
struct Member {
  std::string path;
  std::string text;
  unsigned type = AE_IFREG;
  unsigned mode = 0644;
  std::string link{};
  std::int64_t size = -1;  // what its head says, when that is not the text's
};

class PackageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directory(folder_.file("vendors"));
    trust_ = {folder_.file("vendors"), folder_.file("revoked")};
    make_keys(secret_, folder_.file("vendors") + "/acme.pem");
    put(source_ + "/manifest.json", kManifest);
    put(source_ + "/bin/heat", "#!/bin/sh\n", 0755);
    put(source_ + "/lib/_data.txt", std::string(200'000, 'd'));
  }

  std::string packed() {
    const std::string file = folder_.file("package-" + std::to_string(++count_) + ".tar");
    pack(source_, secret_, file);
    return file;
  }
  // A tar of the source's files, `more` and a signature that is right for what the listing takes of it.
  std::string tar_with(const std::vector<Member>& more, bool manifest = true) {
    const std::string file = folder_.file("tar-" + std::to_string(++count_) + ".tar");
    ::archive* to = archive_write_new();
    archive_write_set_format_pax_restricted(to);
    archive_write_set_bytes_per_block(to, 0);
    EXPECT_EQ(archive_write_open_filename(to, file.c_str()), ARCHIVE_OK);
    std::vector<Member> all = more;
    if (manifest) all.push_back({"manifest.json", kManifest});
    all.push_back({"bin/heat", "x", AE_IFREG, 0755});
    for (const Member& member : all) {
      archive_entry* entry = archive_entry_new();
      archive_entry_set_pathname(entry, member.path.c_str());
      archive_entry_set_filetype(entry, member.type);
      archive_entry_set_perm(entry, static_cast<mode_t>(member.mode));
      if (!member.link.empty() && member.type == AE_IFLNK) archive_entry_set_symlink(entry, member.link.c_str());
      if (!member.link.empty() && member.type == AE_IFREG) archive_entry_set_hardlink(entry, member.link.c_str());
      archive_entry_set_size(entry, member.size >= 0 ? member.size : static_cast<la_int64_t>(member.text.size()));
      archive_write_header(to, entry);
      archive_write_data(to, member.text.data(), member.text.size());
      archive_entry_free(entry);
      if (member.size < 0) continue;
      archive_write_fail(to);  // or it would be filled up
      break;
    }
    archive_write_free(to);
    return file;
  }
  std::string refusal(const std::string& file) {
    try {
      verify(file, trust_);
    } catch (const Error& error) {
      return error.what();
    }
    return "taken";
  }

  TempFolder folder_;
  const std::string source_ = folder_.file("source");
  const std::string secret_ = folder_.file("secret.pem");
  const std::string layers_ = folder_.file("layers");
  Trust trust_;
  int count_ = 0;
};

TEST_F(PackageTest, GoesFromAVendorToAHost) {
  const std::string file = packed();
  EXPECT_EQ(verify(file, trust_).manifest.name, "heat");
  const std::string target = install(file, trust_, layers_);
  EXPECT_EQ(target, layers_ + "/heat/1.0");
  EXPECT_EQ(read_file(target + "/lib/_data.txt", 1 << 20), std::string(200'000, 'd'));
  struct stat status {};
  ASSERT_EQ(::stat((target + "/bin/heat").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0755u);
  ASSERT_EQ(::stat(target.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0755u);
  EXPECT_EQ(verify_installed(target, trust_).manifest.version, "1.0");
  EXPECT_EQ(code_of([&] { install(file, trust_, layers_); }), Code::kExists);
  EXPECT_EQ(std::distance(fs::directory_iterator(layers_), fs::directory_iterator()), 1);  // nothing is left lying about
}

TEST_F(PackageTest, TheSamePackageIsTheSameBytes) { EXPECT_EQ(read_file(packed(), 1 << 20), read_file(packed(), 1 << 20)); }

TEST_F(PackageTest, EveryAlteredByteOfAFileIsFound) {
  const std::string file = packed();
  const std::string bytes = read_file(file, 1 << 20);
  for (const std::string what : {"#!/bin/sh", "dddd", "fail-open", "bin/heat"}) {
    std::string altered = bytes;
    altered[altered.find(what) + 1] ^= 1;
    put(folder_.file("altered.tar"), altered);
    EXPECT_NE(refusal(folder_.file("altered.tar")), "taken") << what;
    EXPECT_NE(code_of([&] { install(folder_.file("altered.tar"), trust_, layers_); }), Code::kInternal);
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(layers_), fs::directory_iterator()), 0);
}

TEST_F(PackageTest, WhatIsInstalledIsCheckedAgain) {
  const std::string target = install(packed(), trust_, layers_);
  put(target + "/bin/heat", "other\n", 0755);
  EXPECT_EQ(code_of([&] { verify_installed(target, trust_); }), Code::kPermission);
  put(target + "/bin/heat", "#!/bin/sh\n", 0755);
  EXPECT_EQ(verify_installed(target, trust_).manifest.name, "heat");
  put(target + "/more", "");
  EXPECT_EQ(code_of([&] { verify_installed(target, trust_); }), Code::kPermission);
  fs::remove(target + "/more");
  ::chmod((target + "/lib/_data.txt").c_str(), 0755);
  EXPECT_EQ(code_of([&] { verify_installed(target, trust_); }), Code::kPermission);
}

TEST_F(PackageTest, OnlyTheVendorsKeyCounts) {
  const std::string file = packed();
  make_keys(folder_.file("other-secret.pem"), folder_.file("vendors") + "/acme.pem");
  EXPECT_NE(refusal(file).find("is not what acme signed"), std::string::npos);
  fs::remove(folder_.file("vendors") + "/acme.pem");
  EXPECT_NE(refusal(file).find("the vendor acme of heat is not allowed here"), std::string::npos);
  put(folder_.file("vendors") + "/acme.pem", "no key");
  EXPECT_EQ(code_of([&] { verify(file, trust_); }), Code::kInvalid);
}

TEST_F(PackageTest, AnUnsignedPackageIsRefused) {
  EXPECT_EQ(refusal(tar_with({})), "the package of heat is not signed");
  EXPECT_NE(refusal(tar_with({{"signature", std::string(64, 'x')}})).find("is not what acme signed"), std::string::npos);
  EXPECT_NE(refusal(tar_with({{"signature", "short"}})).find("not one of 64 bytes"), std::string::npos);
  EXPECT_NE(refusal(tar_with({{"signature", std::string(64, 'x')}, {"signature", std::string(64, 'y')}})).find("not one of 64 bytes"),
            std::string::npos);
}

TEST_F(PackageTest, RevokedKeysAndPackagesAreRefused) {
  const std::string file = packed(), target = install(file, trust_, layers_);
  const std::string key = PublicKey::read(folder_.file("vendors") + "/acme.pem").fingerprint();
  put(trust_.revoked_file, "# a note\n\nkey " + std::string(64, '0') + "\npackage acme/heat/0.9\n");
  EXPECT_EQ(refusal(file), "taken");
  for (const std::string& line : {"key " + key, std::string("package acme/heat/1.0")}) {
    put(trust_.revoked_file, "# a note\n" + line + "\n");
    EXPECT_NE(refusal(file).find("is revoked"), std::string::npos) << line;
    EXPECT_EQ(code_of([&] { verify_installed(target, trust_); }), Code::kPermission) << line;
  }
  for (const char* line : {"acme/heat/1.0", "key abc", "package a b", "Package acme/heat/1.0"}) {
    put(trust_.revoked_file, std::string(line) + "\n");
    EXPECT_NE(refusal(file).find("has a line that it cannot have"), std::string::npos) << line;
  }
}

TEST_F(PackageTest, AVendorCannotTakeOverAnothersLayer) {
  install(packed(), trust_, layers_);
  make_keys(folder_.file("evil.pem"), folder_.file("vendors") + "/evil.pem");
  put(source_ + "/manifest.json", replaced(replaced(kManifest, "acme", "evil"), "1.0", "2.0"));
  pack(source_, folder_.file("evil.pem"), folder_.file("evil.tar"));
  EXPECT_EQ(code_of([&] { install(folder_.file("evil.tar"), trust_, layers_); }), Code::kPermission);
  EXPECT_FALSE(fs::exists(layers_ + "/heat/2.0"));
}

TEST_F(PackageTest, HostileMembersAreRefused) {
  const std::vector<Member> hostile = {
      {"../escaped", "x"},
      {"/tmp/escaped", "x"},
      {"a/../../escaped", "x"},
      {"a//b", "x"},
      {"./a", "x"},
      {".hidden", "x"},
      {"a b", "x"},
      {"a\nb", "x"},
      {"a\x80", "x"},
      {std::string(kPathMax + 1, 'a'), "x"},
      {"link", "", AE_IFLNK, 0644, "/etc/passwd"},
      {"hard", "", AE_IFREG, 0644, "manifest.json"},
      {"device", "", AE_IFCHR},
      {"block", "", AE_IFBLK},
      {"fifo", "", AE_IFIFO},
      {"folder", "", AE_IFDIR, 0755},
      {"setuid", "x", AE_IFREG, 04755},
      {"open", "x", AE_IFREG, 0777},
      {"bin/heat/below", "x"},
      {"bin", "x"},
      {"huge", "x", AE_IFREG, 0644, "", std::int64_t{1} << 40},
      {"cut", "x", AE_IFREG, 0644, "", 5000},
  };
  for (const Member& member : hostile) {
    const std::string file = tar_with({member, {"signature", std::string(64, 'x')}});
    const std::string said = refusal(file);
    EXPECT_TRUE(said.find("the package holds ") == 0 || said.find("the package is no whole tar") == 0) << member.path << ": " << said;
    EXPECT_EQ(said.find_first_of("\n\x80"), std::string::npos);
    EXPECT_NE(code_of([&] { install(file, trust_, layers_); }), Code::kInternal);
  }
  EXPECT_EQ(refusal(tar_with({{"twice", "x"}, {"twice", "y"}})).find("the package holds \"twice\", twice"), 0u);
  EXPECT_FALSE(fs::exists(folder_.file("escaped")));
  EXPECT_EQ(std::distance(fs::directory_iterator(layers_), fs::directory_iterator()), 0);
}

TEST_F(PackageTest, LimitsAreKeptToBeforeAnythingIsRead) {
  Listing listing;
  for (std::size_t i = 0; i < kFilesMax; ++i) listing.add("f" + std::to_string(i), 0644, 0);
  EXPECT_EQ(code_of([&] { listing.add("more", 0644, 0); }), Code::kInvalid);
  Listing large;
  large.add("a", 0644, kBytesMax);
  EXPECT_EQ(code_of([&] { large.add("b", 0644, 1); }), Code::kInvalid);
  EXPECT_EQ(code_of([&] { Listing().add("c", 0644, UINT64_MAX); }), Code::kInvalid);
}

TEST_F(PackageTest, ABadManifestIsRefused) {
  EXPECT_EQ(refusal(tar_with({}, false)), "the package has no manifest.json");
  EXPECT_NE(refusal(tar_with({{"manifest.json", "{"}}, false)).find("the manifest is no JSON"), std::string::npos);
  EXPECT_EQ(refusal(tar_with({{"manifest.json", std::string((64 << 10) + 1, ' ')}}, false)), "the package's manifest is too long");
  const std::string older = tar_with({{"manifest.json", replaced(kManifest, "\"abi\": 1", "\"abi\": 0")}}, false);
  EXPECT_EQ(code_of([&] { verify(older, trust_); }), Code::kVersion);
  const std::string absent = tar_with({{"manifest.json", replaced(kManifest, "bin/heat", "bin/cold")}}, false);
  EXPECT_NE(refusal(absent).find("program \"bin/cold\" is not there"), std::string::npos);
}

TEST_F(PackageTest, WhatIsNoTarIsRefused) {
  put(folder_.file("text"), "hello");
  EXPECT_EQ(code_of([&] { verify(folder_.file("text"), trust_); }), Code::kCorrupt);
  const std::string bytes = read_file(packed(), 1 << 20);
  put(folder_.file("cut"), bytes.substr(0, bytes.size() / 2));
  EXPECT_EQ(code_of([&] { verify(folder_.file("cut"), trust_); }), Code::kCorrupt);
  EXPECT_EQ(code_of([&] { verify(folder_.file("absent"), trust_); }), Code::kNotFound);
}

TEST_F(PackageTest, PackingSaysWhatIsWrong) {
  const std::string output = folder_.file("out.tar");
  fs::create_symlink("/etc/passwd", source_ + "/link");
  EXPECT_EQ(code_of([&] { pack(source_, secret_, output); }), Code::kInvalid);
  fs::remove(source_ + "/link");
  ASSERT_EQ(::mkfifo((source_ + "/fifo").c_str(), 0644), 0);
  EXPECT_EQ(code_of([&] { pack(source_, secret_, output); }), Code::kInvalid);
  fs::remove(source_ + "/fifo");
  ::chmod((source_ + "/bin/heat").c_str(), 0644);
  EXPECT_EQ(code_of([&] { pack(source_, secret_, output); }), Code::kInvalid);
  ::chmod((source_ + "/bin/heat").c_str(), 0755);
  EXPECT_EQ(code_of([&] { pack(source_, folder_.file("vendors") + "/acme.pem", output); }), Code::kInvalid);
  EXPECT_FALSE(fs::exists(output));
  pack(source_, secret_, output);
  EXPECT_EQ(code_of([&] { pack(source_, secret_, output); }), Code::kExists);
  EXPECT_EQ(refusal(output), "taken");
}

}  // namespace
}  // namespace mhv::package
