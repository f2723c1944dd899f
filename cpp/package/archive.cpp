#include "package/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <memory>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "stack/json.h"
#include "stack/manifest.h"

namespace mhv::package {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBlock = 64 << 10;
constexpr unsigned kPermissions = 07777;

using Reader = std::unique_ptr<::archive, decltype(&archive_read_free)>;
using Writer = std::unique_ptr<::archive, decltype(&archive_write_free)>;

class Hash {
 public:
  Hash() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    if (!context_ || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1) throw Error(Code::kInternal, "no SHA-256");
  }
  void add(std::span<const std::byte> data) { EVP_DigestUpdate(context_.get(), data.data(), data.size()); }
  Digest end() {
    Digest out{};
    EVP_DigestFinal_ex(context_.get(), out.data(), nullptr);
    return out;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

// Takes the files of a package one by one, wherever they come from.
class Collector {
 public:
  explicit Collector(const MakeSink& make_sink) : make_sink_(make_sink) {}

  using Read = std::function<std::size_t(std::span<std::byte>)>;  // 0: the end
  void add(const std::string& path, unsigned mode, std::uint64_t bytes, const Read& read) {
    const bool signature = path == kSignatureName;
    if (signature && (out_.signature || bytes != kSignatureBytes))
      throw Error(Code::kInvalid, "the package's signature is not one of 64 bytes");
    if (path == kManifestName && bytes > stack::kManifestMax) throw Error(Code::kInvalid, "the package's manifest is too long");
    Entry unlisted;
    Entry& entry = signature ? unlisted : out_.listing.add(path, mode, bytes);
    const Sink sink = make_sink_(path, entry.executable);
    Hash hash;
    std::vector<std::byte> block(kBlock);
    std::uint64_t left = bytes;
    for (std::size_t length = 0; (length = read(block)) > 0; left -= length) {
      if (length > left) throw Error(Code::kCorrupt, "a file of the package is longer than it says");
      const auto data = std::span(block).first(length);
      hash.add(data);
      if (sink) sink(data);
      keep(path, data);
    }
    if (left > 0) throw Error(Code::kCorrupt, "a file of the package is shorter than it says");
    entry.digest = hash.end();
    if (signature) finish_signature();
  }

  Contents finish() {
    if (!out_.listing.entries().contains(std::string(kManifestName))) {
      throw Error(Code::kInvalid, "the package has no manifest.json", "its folder is packed as a whole, with manifest.json at its top");
    }
    return std::move(out_);
  }

 private:
  void keep(const std::string& path, std::span<const std::byte> data) {
    const std::string_view text(reinterpret_cast<const char*>(data.data()), data.size());
    if (path == kManifestName) out_.manifest += text;
    if (path == kSignatureName) signature_ += text;
  }
  void finish_signature() {
    Signature bytes{};
    std::copy(signature_.begin(), signature_.end(), bytes.begin());
    out_.signature = bytes;
  }

  const MakeSink& make_sink_;
  Contents out_;
  std::string signature_;
};

[[noreturn]] void fail_reading(::archive* from) {
  const char* const said = archive_error_string(from);
  throw Error(Code::kCorrupt, fmt::format("the package is no whole tar: {}", stack::shown(said != nullptr ? said : "it ends early")),
              "make it with mhvctl layer pack, and copy all of it");
}

void add_entry(Collector& collector, ::archive* from, archive_entry* entry) {
  const char* const name = archive_entry_pathname(entry);
  std::string path = name != nullptr ? name : "";
  const auto type = archive_entry_filetype(entry);
  if (archive_entry_hardlink(entry) != nullptr || archive_entry_symlink(entry) != nullptr || type != AE_IFREG) {
    throw Error(Code::kInvalid, fmt::format("the package holds {}, which is no plain file", stack::shown(path)),
                "links, devices and folders of their own are not packed");
  }
  if (archive_entry_sparse_count(entry) > 0 || !archive_entry_size_is_set(entry) || archive_entry_size(entry) < 0) {
    throw Error(Code::kInvalid, fmt::format("the package holds {}, a file with holes or without a size", stack::shown(path)));
  }
  collector.add(path, archive_entry_perm(entry) & kPermissions, static_cast<std::uint64_t>(archive_entry_size(entry)),
                [&](std::span<std::byte> block) {
                  const la_ssize_t length = archive_read_data(from, block.data(), block.size());
                  if (length < 0) fail_reading(from);
                  return static_cast<std::size_t>(length);
                });
}

Contents read_all(const Reader& from, const MakeSink& make_sink) {
  Collector collector(make_sink);
  for (;;) {
    archive_entry* entry = nullptr;
    const int result = archive_read_next_header(from.get(), &entry);
    if (result == ARCHIVE_EOF) return collector.finish();
    if (result != ARCHIVE_OK) fail_reading(from.get());
    add_entry(collector, from.get(), entry);
  }
}

Reader new_reader() {
  Reader out(archive_read_new(), &archive_read_free);
  if (!out || archive_read_support_format_tar(out.get()) != ARCHIVE_OK) throw Error(Code::kInternal, "no memory");
  return out;
}

void check_written(::archive* to, long result) {
  if (result >= ARCHIVE_OK) return;
  throw_errno(std::string("cannot write the package"), archive_errno(to));
}

void write_entry(::archive* to, unsigned type, const std::string& path, unsigned mode, std::span<const std::byte> data) {
  const std::unique_ptr<archive_entry, decltype(&archive_entry_free)> entry(archive_entry_new(), &archive_entry_free);
  archive_entry_set_pathname(entry.get(), path.c_str());
  archive_entry_set_filetype(entry.get(), type);
  archive_entry_set_perm(entry.get(), mode);
  archive_entry_set_size(entry.get(), static_cast<la_int64_t>(data.size()));
  archive_entry_set_mtime(entry.get(), 0, 0);
  check_written(to, archive_write_header(to, entry.get()));
  check_written(to, archive_write_data(to, data.data(), data.size()));
}

void write_file(::archive* to, const std::string& path, unsigned mode, std::span<const std::byte> data) {
  write_entry(to, AE_IFREG, path, mode, data);
}

void write_contents(::archive* to, const std::string& prefix, const std::string& folder, const Contents& contents) {
  for (const auto& [path, entry] : contents.listing.entries()) {
    const std::string text = read_file(folder + "/" + path, entry.bytes);
    if (sha256(std::as_bytes(std::span(text))) != entry.digest) {
      throw Error(Code::kInvalid, path + " changed while it was packed", "pack a folder that nobody writes to");
    }
    write_file(to, prefix + path, entry.executable ? 0755 : 0644, std::as_bytes(std::span(text)));
  }
}

}  // namespace

Contents read_archive(const std::string& file, const MakeSink& make_sink) {
  const Fd fd = Fd::open(file, O_RDONLY);
  const Reader reader = new_reader();
  if (archive_read_open_fd(reader.get(), fd.get(), kBlock) != ARCHIVE_OK) fail_reading(reader.get());
  return read_all(reader, make_sink);
}

Contents read_archive(std::span<const std::byte> data, const MakeSink& make_sink) {
  const Reader reader = new_reader();
  if (archive_read_open_memory(reader.get(), data.data(), data.size()) != ARCHIVE_OK) fail_reading(reader.get());
  return read_all(reader, make_sink);
}

Contents read_folder(const std::string& folder) {
  const MakeSink nowhere = [](const std::string&, bool) { return Sink(); };
  Collector collector(nowhere);
  for (const fs::directory_entry& one : fs::recursive_directory_iterator(folder)) {
    const std::string path = one.path().lexically_relative(folder).string();
    if (one.is_directory() && !one.is_symlink()) continue;
    const Fd fd = Fd::own(::open(one.path().c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    struct stat status {};
    if (!fd || ::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
      throw Error(Code::kInvalid, fmt::format("{} is no plain file that can be read", stack::shown(one.path().string())),
                  "a package holds plain files alone; copy what a link points to");
    }
    const unsigned mode = (status.st_mode & S_IXUSR) != 0 ? 0755 : 0644;
    collector.add(path, mode, static_cast<std::uint64_t>(status.st_size), [&](std::span<std::byte> block) {
      const ssize_t length = ::read(fd.get(), block.data(), block.size());
      if (length < 0) throw_errno("cannot read " + one.path().string());
      return static_cast<std::size_t>(length);
    });
  }
  return collector.finish();
}

void write_archive(const std::string& file, const std::string& folder, const Contents& contents, const Signature& signature) {
  const Fd fd = Fd::open(file, O_WRONLY | O_CREAT | O_EXCL, 0644);
  const Writer to(archive_write_new(), &archive_write_free);
  try {
    check_written(to.get(), archive_write_set_format_pax_restricted(to.get()));
    check_written(to.get(), archive_write_open_fd(to.get(), fd.get()));
    write_contents(to.get(), "", folder, contents);
    write_file(to.get(), std::string(kSignatureName), 0644, std::as_bytes(std::span(signature)));
    check_written(to.get(), archive_write_close(to.get()));
  } catch (...) {
    ::unlink(file.c_str());
    throw;
  }
}

void write_initramfs(const Fd& to, const std::string& folder, const Contents& contents) {
  const Writer writer(archive_write_new(), &archive_write_free);
  check_written(writer.get(), archive_write_set_format_cpio_newc(writer.get()));
  check_written(writer.get(), archive_write_open_fd(writer.get(), to.get()));
  std::set<std::string> folders{"layer"};
  for (const auto& [path, entry] : contents.listing.entries()) {
    for (fs::path parent = fs::path(path).parent_path(); !parent.empty(); parent = parent.parent_path()) {
      folders.insert("layer/" + parent.string());
    }
  }
  for (const std::string& one : folders) write_entry(writer.get(), AE_IFDIR, one, 0755, {});  // each behind the one that it is in
  write_contents(writer.get(), "layer/", folder, contents);
  check_written(writer.get(), archive_write_close(writer.get()));
}

}  // namespace mhv::package
