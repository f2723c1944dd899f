#include "package/listing.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>

#include "base/error.h"
#include "stack/json.h"

namespace mhv::package {
namespace {

constexpr unsigned kPlain = 0644;
constexpr unsigned kProgram = 0755;

bool is_path(std::string_view text) {
  bool part_begins = true;
  for (const char c : text) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    const bool plain = letter || c == '_' || c == '-' || c == '+' || c == '.';
    if (c == '/' ? part_begins : (!plain || (part_begins && c == '.'))) return false;
    part_begins = c == '/';
  }
  return !part_begins && text.size() <= kPathMax;
}

[[noreturn]] void refuse_file(const std::string& path, const std::string& why) {
  throw Error(Code::kInvalid, fmt::format("the package holds {}, {}", stack::shown(path), why));
}

}  // namespace

Digest sha256(std::span<const std::byte> data) {
  Digest out{};
  if (EVP_Digest(data.data(), data.size(), out.data(), nullptr, EVP_sha256(), nullptr) != 1) throw Error(Code::kInternal, "no SHA-256");
  return out;
}

std::string hex(std::span<const std::uint8_t> bytes) {
  std::string out;
  for (const std::uint8_t byte : bytes) out += fmt::format("{:02x}", byte);
  return out;
}

Entry& Listing::add(const std::string& path, unsigned mode, std::uint64_t bytes) {
  if (!is_path(path)) refuse_file(path, "which is no plain path within it");
  if (mode != kPlain && mode != kProgram) refuse_file(path, fmt::format("whose mode is {:04o} and not 0644 or 0755", mode));
  if (entries_.size() == kFilesMax) refuse_file(path, fmt::format("after {} files, and may hold no more", kFilesMax));
  if (bytes > kBytesMax - bytes_) refuse_file(path, fmt::format("with which it has more than {} bytes", kBytesMax));
  for (std::size_t slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1)) {
    if (entries_.contains(path.substr(0, slash))) refuse_file(path, "beneath what is a file");
  }
  const auto beneath = entries_.lower_bound(path + "/");
  if (beneath != entries_.end() && beneath->first.starts_with(path + "/")) refuse_file(path, "which is a folder as well");
  const auto [at, fresh] = entries_.try_emplace(path);
  if (!fresh) refuse_file(path, "twice");
  bytes_ += bytes;
  at->second.executable = mode == kProgram;
  at->second.bytes = bytes;
  return at->second;
}

std::string Listing::text() const {
  std::string out = "nova-mhv layer package 1\n";
  for (const auto& [path, entry] : entries_) {
    out += fmt::format("100{:o} {} {} {}\n", entry.executable ? kProgram : kPlain, entry.bytes, hex(entry.digest), path);
  }
  return out;
}

}  // namespace mhv::package
