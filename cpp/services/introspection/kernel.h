// The Linux kernel that runs in a guest, found from outside: no agent, no profile.
#pragma once

#include <string>

#include "introspection/btf.h"
#include "introspection/kallsyms.h"
#include "introspection/paging.h"

namespace mhv::introspection {

// What a processor of the guest says of its page tables.
struct Paging {
  std::uint64_t cr3 = 0;
  bool five_levels = false;  // CR4.LA57
};

// Thread-safe: nothing changes after it was made. `memory` outlives it.
class Kernel {
 public:
  // `paging`, of any processor, tells the kernel that runs from those that ran there before a reboot. Throws kUnsupported: no Linux
  // is there, it was built without kallsyms or BTF, or has not got far enough in its start (try again then).
  Kernel(const PhysicalMemory& memory, const Paging& paging);

  const std::string& banner() const { return banner_; }  // "Linux version 6.1.0-..."
  const Kallsyms& symbols() const { return symbols_; }
  const Btf& types() const { return types_; }
  bool five_levels() const { return five_levels_; }
  const AddressSpace& space() const { return space_; }  // of the kernel itself
  // Of a process: `root` is its pgd, where the kernel sees it.
  std::optional<AddressSpace> space_of(GuestVirt root) const;
  AddressSpace space_at(GuestPhys root) const { return AddressSpace(*memory_, root.value, five_levels_); }

  // Throw kUnsupported: this kernel has none of that name.
  GuestVirt symbol(std::string_view name) const;
  std::uint32_t offset(std::string_view structure, std::string_view member) const;

 private:
  struct Parts {
    const PhysicalMemory* memory;
    bool five_levels;
    std::string banner;
    Kallsyms symbols;
    AddressSpace space;
  };
  explicit Kernel(Parts parts);
  static Parts find(const PhysicalMemory& memory, const Paging& paging);

  const PhysicalMemory* memory_;
  bool five_levels_;
  std::string banner_;
  Kallsyms symbols_;
  AddressSpace space_;
  Btf types_;
};

}  // namespace mhv::introspection
