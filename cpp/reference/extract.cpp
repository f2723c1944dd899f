#include "reference/extract.h"

#include <archive.h>
#include <archive_entry.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <string_view>

#include "base/error.h"
#include "base/fd.h"
#include "integrity/vendor_image.h"

namespace mhv::reference {
namespace {

namespace fs = std::filesystem;
using Bytes = std::span<const std::byte>;
using Archive = std::unique_ptr<::archive, decltype(&archive_read_free)>;

constexpr std::size_t kPackageBytesMax = 1u << 30;
constexpr std::size_t kKernelBytesMax = 256u << 20;  // compressed
constexpr std::size_t kImageBytesMax = 512u << 20;
constexpr std::size_t kBlock = 1u << 20;
constexpr const char* kHint = "give a linux-image-*.deb of Debian, or its /boot/vmlinuz-*";

[[noreturn]] void fail(::archive* from) {
  const char* const said = archive_error_string(from);
  throw Error(Code::kCorrupt, std::string("cannot unpack the kernel: ") + (said == nullptr ? "it is damaged" : said), kHint);
}

Archive make_reader() {
  Archive out(archive_read_new(), &archive_read_free);
  if (!out || archive_read_support_filter_all(out.get()) < ARCHIVE_WARN) throw Error(Code::kInternal, "no memory");
  return out;
}

void open(::archive* reader, Bytes bytes) {
  if (archive_read_open_memory(reader, bytes.data(), bytes.size()) != ARCHIVE_OK) fail(reader);
}

// False: there are no more.
bool next(::archive* reader, archive_entry*& entry) {
  const int result = archive_read_next_header(reader, &entry);
  if (result == ARCHIVE_EOF) return false;
  if (result != ARCHIVE_OK && result != ARCHIVE_WARN) fail(reader);
  return true;
}

std::string_view name_of(archive_entry* entry) {
  const char* const name = archive_entry_pathname(entry);
  return name == nullptr ? "" : name;
}

std::vector<std::byte> read_all(::archive* reader, std::size_t most) {
  std::vector<std::byte> out;
  std::vector<std::byte> block(kBlock);
  for (;;) {
    const la_ssize_t count = archive_read_data(reader, block.data(), block.size());
    if (count < 0) fail(reader);
    if (count == 0) return out;
    if (out.size() + static_cast<std::size_t>(count) > most) throw Error(Code::kInvalid, "what the kernel unpacks to is too large", kHint);
    out.insert(out.end(), block.begin(), block.begin() + count);
  }
}

std::vector<std::byte> vmlinuz_of(Bytes tar) {
  const Archive reader = make_reader();
  archive_read_support_format_tar(reader.get());
  open(reader.get(), tar);
  archive_entry* entry = nullptr;
  while (next(reader.get(), entry)) {
    const bool found = name_of(entry).starts_with("./boot/vmlinuz-") || name_of(entry).starts_with("boot/vmlinuz-");
    if (found && archive_entry_filetype(entry) == AE_IFREG) return read_all(reader.get(), kKernelBytesMax);
  }
  throw Error(Code::kInvalid, "the package holds no /boot/vmlinuz-*", kHint);
}

std::vector<std::byte> vmlinuz_of_package(Bytes file) {
  const Archive reader = make_reader();
  archive_read_support_format_ar(reader.get());
  open(reader.get(), file);
  archive_entry* entry = nullptr;
  while (next(reader.get(), entry)) {
    if (name_of(entry).starts_with("data.tar")) return vmlinuz_of(read_all(reader.get(), kPackageBytesMax));
  }
  throw Error(Code::kInvalid, "the package holds no files", kHint);
}

std::uint32_t word(Bytes bytes, std::size_t at) {
  std::uint32_t value = 0;
  if (at + sizeof value <= bytes.size()) std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

bool begins(Bytes bytes, std::string_view with) {
  return bytes.size() >= with.size() && std::memcmp(bytes.data(), with.data(), with.size()) == 0;
}

Bytes payload_of(Bytes kernel) {
  constexpr std::size_t kMagicAt = 0x202, kSectorsAt = 0x1f1, kPayloadAt = 0x248, kLengthAt = 0x24c, kSector = 512;
  if (kernel.size() < kLengthAt + 4 || !begins(kernel.subspan(kMagicAt), "HdrS")) {
    throw Error(Code::kInvalid, "it is neither a package nor a bzImage", kHint);
  }
  const std::size_t sectors = std::to_integer<std::size_t>(kernel[kSectorsAt]);
  const std::uint64_t start = ((sectors == 0 ? 4 : sectors) + 1) * kSector + std::uint64_t{word(kernel, kPayloadAt)};
  const std::uint64_t bytes = word(kernel, kLengthAt);
  if (start > kernel.size() || bytes > kernel.size() - start || bytes < 8) {
    throw Error(Code::kCorrupt, "the kernel's payload is not all there", kHint);
  }
  return kernel.subspan(start, bytes);
}

std::vector<std::byte> unpack(Bytes payload) {
  if (!begins(payload, "\x1f\x8b")) payload = payload.first(payload.size() - sizeof(std::uint32_t));
  const Archive reader = make_reader();
  archive_read_support_format_raw(reader.get());
  open(reader.get(), payload);
  archive_entry* entry = nullptr;
  if (!next(reader.get(), entry)) throw Error(Code::kCorrupt, "the kernel's payload is empty", kHint);
  std::vector<std::byte> out = read_all(reader.get(), kImageBytesMax);
  if (!begins(out,
              "\x7f"
              "ELF"))
    throw Error(Code::kCorrupt, "the kernel's payload is no ELF file, or is packed in an unknown way", kHint);
  return out;
}

}  // namespace

std::vector<std::byte> extract_kernel(Bytes file) {
  if (!begins(file, "!<arch>\n")) return unpack(payload_of(file));
  return unpack(payload_of(vmlinuz_of_package(file)));
}

Written write_reference(const std::string& package, const std::string& folder) {
  const std::string file = read_file(package, kPackageBytesMax);
  const std::vector<std::byte> kernel = extract_kernel(std::as_bytes(std::span(file)));
  const integrity::VendorImage image(kernel);
  fs::path name = fs::path(package).filename();
  if (name.extension() == ".deb") name.replace_extension();
  const std::string path = (fs::path(folder) / name).string();
  replace_file(path, kernel);
  fs::permissions(path, fs::perms(0644));
  return {path, image.banner()};
}

}  // namespace mhv::reference
