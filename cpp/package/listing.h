// What is signed of a package: its files, each by path, mode, size and SHA-256.
//
//   nova-mhv layer package 1
//   100755 48128 <64 hexadecimal digits> bin/layer       one line a file, by path
//   100644 612 <64 hexadecimal digits> manifest.json
//
// The listing is never stored: who checks a package makes it again from what it holds. The signature itself is not in it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

namespace mhv::package {

inline constexpr std::string_view kManifestName = "manifest.json";
inline constexpr std::string_view kSignatureName = "signature";
inline constexpr std::size_t kFilesMax = 4096;
inline constexpr std::uint64_t kBytesMax = 1ull << 30;  // of all files together
inline constexpr std::size_t kPathMax = 200;

using Digest = std::array<std::uint8_t, 32>;
Digest sha256(std::span<const std::byte> data);
std::string hex(std::span<const std::uint8_t> bytes);

struct Entry {
  bool executable = false;
  std::uint64_t bytes = 0;
  Digest digest{};
};

// Counts while it grows: nothing that passes a limit gets as far as being read.
class Listing {
 public:
  // The next file; its content is not there yet. Throws kInvalid: the path leads out of the package, or has characters that no package
  // needs (letters, digits, _ - + . and / are fine, no part begins with a dot), is there already, or stands for a folder and a file; too
  // many files, too many bytes; a mode other than 0644 and 0755.
  Entry& add(const std::string& path, unsigned mode, std::uint64_t bytes);

  const std::map<std::string, Entry>& entries() const { return entries_; }
  std::string text() const;

 private:
  std::map<std::string, Entry> entries_;
  std::uint64_t bytes_ = 0;
};

}  // namespace mhv::package
