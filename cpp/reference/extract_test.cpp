#include "reference/extract.h"

#include <archive.h>
#include <archive_entry.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>

#include "base/code_of_test.h"

namespace mhv::reference {
namespace {

using Bytes = std::vector<std::byte>;

// One file, as `set` says how.
Bytes pack(const std::string& name, const Bytes& content, const std::function<void(::archive*)>& set) {
  Bytes out(content.size() + 65536);
  std::size_t used = 0;
  ::archive* to = archive_write_new();
  set(to);
  archive_write_set_bytes_in_last_block(to, 1);
  EXPECT_EQ(archive_write_open_memory(to, out.data(), out.size(), &used), ARCHIVE_OK);
  archive_entry* entry = archive_entry_new();
  archive_entry_set_pathname(entry, name.c_str());
  archive_entry_set_filetype(entry, AE_IFREG);
  archive_entry_set_perm(entry, 0644);
  archive_entry_set_size(entry, static_cast<la_int64_t>(content.size()));
  EXPECT_EQ(archive_write_header(to, entry), ARCHIVE_OK) << archive_error_string(to);
  archive_write_data(to, content.data(), content.size());
  archive_entry_free(entry);
  archive_write_close(to);
  archive_write_free(to);
  out.resize(used);
  return out;
}

using Filter = int (*)(::archive*);
Bytes compress(const Bytes& content, Filter filter) {
  return pack("x", content, [&](::archive* to) {
    archive_write_set_format_raw(to);
    filter(to);
  });
}

Bytes bzimage(Bytes payload, bool with_size) {
  constexpr std::size_t kStart = 1024 + 16;
  if (with_size) payload.resize(payload.size() + 4, std::byte{0x11});
  Bytes out(kStart + payload.size() + 100);  // a signature behind it
  const auto put = [&](std::size_t at, std::uint32_t value) { std::memcpy(out.data() + at, &value, sizeof value); };
  out[0x1f1] = std::byte{1};
  std::memcpy(out.data() + 0x202, "HdrS", 4);
  put(0x248, 16);
  put(0x24c, static_cast<std::uint32_t>(payload.size()));
  std::ranges::copy(payload, out.begin() + kStart);
  return out;
}

Bytes content() {
  Bytes out(20000);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>(i * i >> 7);
  std::memcpy(out.data(),
              "\x7f"
              "ELF",
              4);
  return out;
}

TEST(ExtractKernel, FromABzImageOfEachCompression) {
  EXPECT_EQ(extract_kernel(bzimage(compress(content(), &archive_write_add_filter_xz), true)), content());
  EXPECT_EQ(extract_kernel(bzimage(compress(content(), &archive_write_add_filter_zstd), true)), content());
  EXPECT_EQ(extract_kernel(bzimage(compress(content(), &archive_write_add_filter_lz4), true)), content());
  EXPECT_EQ(extract_kernel(bzimage(compress(content(), &archive_write_add_filter_gzip), false)), content());
}

Bytes package(const std::string& file, const Bytes& kernel) {
  const Bytes tar = pack(file, kernel, [](::archive* to) {
    archive_write_set_format_pax_restricted(to);
    archive_write_add_filter_xz(to);
  });
  return pack("data.tar.xz", tar, [](::archive* to) { archive_write_set_format_ar_svr4(to); });
}

TEST(ExtractKernel, FromAPackage) {
  const Bytes kernel = bzimage(compress(content(), &archive_write_add_filter_zstd), true);
  EXPECT_EQ(extract_kernel(package("./boot/vmlinuz-6.1", kernel)), content());
  EXPECT_EQ(code_of([&] { extract_kernel(package("./boot/config-6.1", kernel)); }), Code::kInvalid);
}

TEST(ExtractKernel, RefusesWhatIsNone) {
  const Bytes kernel = bzimage(compress(content(), &archive_write_add_filter_zstd), true);
  EXPECT_EQ(code_of([] { extract_kernel({}); }), Code::kInvalid);
  EXPECT_EQ(code_of([&] { extract_kernel(std::span(kernel).first(500)); }), Code::kInvalid);
  EXPECT_EQ(code_of([&] { extract_kernel(std::span(kernel).first(1100)); }), Code::kCorrupt);
  Bytes other = kernel;
  for (std::size_t i = 1040; i < other.size(); ++i) other[i] ^= std::byte{0x55};
  EXPECT_EQ(code_of([&] { extract_kernel(other); }), Code::kCorrupt);
}

}  // namespace
}  // namespace mhv::reference
