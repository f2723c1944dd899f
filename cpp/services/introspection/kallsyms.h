// A Linux kernel's own table of its symbols (kallsyms), found and read in its memory: nobody has to bring a profile of it.
//
// What scripts/kallsyms.c of Linux 4.20 to 6.12 puts into the kernel's read-only data, each on a multiple of 8 bytes:
//
//   up to 6.3    offsets, relative_base, num_syms, names, markers, [seqs_of_names], token_table, token_index
//   since 6.4    num_syms, names, markers, token_table, token_index, offsets, relative_base, [seqs_of_names]
//
//   offsets        a symbol's address, 4 bytes each: from relative_base; or, in a table with negative ones, those are
//                  relative_base - 1 - offset and the others are absolute (addresses in a processor's own area)
//   names          of each symbol its number of tokens (one byte, or two as in ULEB128) and so many tokens (bytes); the first character
//                  of what they stand for is its type, as nm says it
//   markers        of every 256th symbol where its name begins (4 bytes each)
//   token_table    what the 256 tokens stand for: strings, each ended by a zero byte
//   token_index    where each of them begins in token_table (2 bytes each)
//
// Distributions bring parts of one version to another, so no version is looked at, but only what is there. A table counts when
// walking its names meets every marker.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "introspection/memory.h"
#include "introspection/name_index.h"

namespace mhv::introspection {

inline constexpr std::size_t kSymbolsMax = 1u << 21;
inline constexpr std::size_t kSymbolBytesMax = 512;  // KSYM_NAME_LEN

// Thread-safe: nothing changes after it was made.
class Kallsyms {
 public:
  struct Symbol {
    GuestVirt at;
    char type = 0;
    std::string_view name;  // as long as the Kallsyms lives
  };

  // In a part of a kernel's memory that holds all of it; nullopt: there is none that is whole. Takes time in proportion to `part`.
  static std::optional<Kallsyms> parse(std::span<const std::byte> part);

  std::size_t size() const { return entries_.size(); }
  Symbol at(std::size_t number) const;
  // The first of that name.
  std::optional<GuestVirt> find(std::string_view name) const;
  // The last one at or before `address`; nullopt: there is none.
  std::optional<Symbol> before(GuestVirt address) const;
  // The first one behind `address`.
  std::optional<Symbol> after(GuestVirt address) const;

 private:
  std::string_view name_of(std::size_t number) const;

  struct Entry {
    GuestVirt at;
    std::uint32_t name = 0;  // begins there in names_, with the type before it
  };
  std::string names_;  // each ended by a zero byte
  std::vector<Entry> entries_;
  NameIndex by_name_{0};
};

// Searches all RAM for the kernel that runs there and those that ran before it, for what they were stays in RAM over a reboot. Looks at one
// place in 128 KiB, so it does not take a read of all memory.
struct FoundKallsyms {
  GuestPhys at;  // of the part that was parsed
  Kallsyms symbols;
};
std::vector<FoundKallsyms> find_kallsyms(const PhysicalMemory& memory);

}  // namespace mhv::introspection
