// The processors of a guest as its saved device state shows them.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "ring/abi.h"

namespace mhv::guest {

inline constexpr std::size_t kVcpusMax = 512;

// `state`: of xen-save-devices-state on x86-64 (QEMU 7.2 to 10.x: section "cpu", version 12). In the order of their numbers; empty:
// there is none, or it is of another version.
std::vector<ring::Vcpu> parse_vcpus(std::span<const std::byte> state);

struct Segment {
  std::uint32_t selector = 0;
  std::uint64_t base = 0;
  std::uint32_t limit = 0, flags = 0;
};

// What a debugger asks for.
struct Registers {
  std::array<std::uint64_t, 16> general{};  // RAX RCX RDX RBX RSP RBP RSI RDI R8 ... R15
  std::uint64_t rip = 0, rflags = 0;
  Segment es, cs, ss, ds, fs, gs, ldt, tr, gdt, idt;
  std::uint64_t cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0, kernel_gs_base = 0;
};

// As parse_vcpus().
std::vector<Registers> parse_registers(std::span<const std::byte> state);

}  // namespace mhv::guest
