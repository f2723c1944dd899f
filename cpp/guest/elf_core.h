// An ELF core of a guest's memory and processors, in the form of QEMU's dump-guest-memory, which forensic tools and debuggers read
// (QEMU dump/dump.c, target/i386/arch_dump.c).
//
//   Elf64_Ehdr | PT_NOTE, a PT_LOAD for each part | notes: "CORE" of each processor, then "QEMU" of each | to a whole page: the parts
#pragma once

#include <span>
#include <vector>

#include "guest/pc_ram.h"

namespace mhv::guest {

struct ElfCore {
  std::vector<std::byte> head;         // from the start of the file; zeros up to the first part
  std::vector<std::uint64_t> offsets;  // of the parts
  std::uint64_t bytes = 0;             // of the file
};

// `state`: as xen-save-devices-state wrote it; where no processors are found in it (parse_registers()), there are no notes.
ElfCore elf_core(std::span<const RamPart> parts, std::span<const std::byte> state);

}  // namespace mhv::guest
