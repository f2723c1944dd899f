// A Linux kernel for x86-64 as its vendor built it: what a bzImage holds, uncompressed.
//
//   ELF             with its sections and their names, without symbols; those are in its own kallsyms
//   relocations     to the end of the file, lists of 4 bytes each, each list with a 0 before it: of 64-bit addresses, of 32-bit distances
//   to
//                   what does not move, of 32-bit addresses. The kernel's start adds to (of distances: takes from) each how far it moved
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "integrity/reader.h"

namespace mhv::integrity {

// Where the vendor linked it to be; the guest's kernel has it at a distance that is the same for all.
struct LinkedAt {
  std::uint64_t value = 0;
  friend auto operator<=>(LinkedAt, LinkedAt) = default;
  friend LinkedAt operator+(LinkedAt a, std::uint64_t bytes) { return {a.value + bytes}; }
  friend std::uint64_t operator-(LinkedAt a, LinkedAt b) { return a.value - b.value; }
};

// Thread-safe: nothing changes after it was made. The file's bytes outlive it.
class VendorImage {
 public:
  struct Section {
    LinkedAt at;
    std::span<const std::byte> bytes;
    bool has(LinkedAt place) const { return place - at < bytes.size(); }
  };

  // Throws kCorrupt: that is no such file.
  explicit VendorImage(std::span<const std::byte> file);
  // Takes no more than a look: whether it may be the kernel of that banner.
  static bool may_have(std::span<const std::byte> file, std::string_view banner);

  const std::string& banner() const { return banner_; }
  // Empty: there is none of that name.
  Section section(std::string_view name) const;
  std::vector<std::string> sections_with(std::string_view prefix) const;
  // Of any section; empty: not all of it is in one.
  std::span<const std::byte> bytes(LinkedAt at, std::uint64_t count) const;
  template <typename T>
  std::optional<T> get(LinkedAt at) const {
    const auto found = bytes(at, sizeof(T));
    if (found.empty()) return std::nullopt;
    T value;
    std::memcpy(&value, found.data(), sizeof value);
    return value;
  }
  // As it is in a kernel that moved so far.
  std::vector<std::byte> moved(const Section& section, std::uint64_t distance) const;

  std::optional<LinkedAt> find(std::string_view symbol) const;
  bool is_function(LinkedAt at) const;  // one begins there
  const introspection::Kallsyms& symbols() const { return *symbols_; }

 private:
  std::map<std::string, Section, std::less<>> sections_;
  std::vector<std::uint32_t> added_, taken_, wide_;
  std::optional<introspection::Kallsyms> symbols_;
  std::string banner_;
};

}  // namespace mhv::integrity
