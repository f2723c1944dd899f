// The page tables of x86-64 (Intel SDM volume 3, 4.5): four or five levels, pages of 4 KiB, 2 MiB and 1 GiB.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "introspection/memory.h"

namespace mhv::introspection {

// Thread-safe: it keeps nothing. `memory` outlives it.
class AddressSpace {
 public:
  // `root`: CR3, whose low bits are ignored. `five_levels`: CR4.LA57.
  AddressSpace(const PhysicalMemory& memory, std::uint64_t root, bool five_levels)
      : memory_(&memory), root_{root & kAddressBits}, levels_(five_levels ? 5 : 4) {}

  // nullopt: not mapped, not canonical, or a table is not in RAM.
  struct Mapping {
    GuestPhys at;
    std::uint64_t page_bytes = 0;  // of the page around it
  };
  std::optional<Mapping> translate(GuestVirt at) const;
  // False: not all of it is there.
  bool read(GuestVirt at, std::span<std::byte> out) const;
  // Up to the first zero byte, or `max` bytes without one; nullopt: not there.
  std::optional<std::string> read_string(GuestVirt at, std::size_t max) const;

  // What stands behind `at` in memory.
  const PhysicalMemory& memory() const { return *memory_; }

 private:
  friend class Look;
  // `entry_at` reads an entry of a page table.
  template <typename EntryAt>
  std::optional<Mapping> walk(GuestVirt at, EntryAt&& entry_at) const;

  static constexpr std::uint64_t kAddressBits = 0x000f'ffff'ffff'f000;

  const PhysicalMemory* memory_;
  GuestPhys root_;
  int levels_;
};

// An AddressSpace for one look: what it translated it knows until then. Not thread-safe; `space` outlives it.
class Look {
 public:
  explicit Look(const AddressSpace& space) : space_(space), tables_(std::make_unique_for_overwrite<Table[]>(kTables)) {}

  bool read(GuestVirt at, std::span<std::byte> out);
  std::optional<GuestPhys> translate(GuestVirt at);

 private:
  static constexpr std::size_t kKnown = 64;
  struct Known {
    std::uint64_t first = 1, bytes = 0;  // of the guest's addresses
    GuestPhys at;
  };
  const Known* find(GuestVirt at);

  // Page tables are read whole, for the next page is most likely in one of them.
  static constexpr std::size_t kTables = 64, kSlots = 512;
  using Table = std::array<std::uint64_t, kSlots>;
  std::optional<std::uint64_t> entry(GuestPhys at);

  const AddressSpace& space_;
  std::array<Known, kKnown> small_, large_;
  std::array<GuestPhys, kTables> table_at_{};
  std::unique_ptr<Table[]> tables_;
};

}  // namespace mhv::introspection
