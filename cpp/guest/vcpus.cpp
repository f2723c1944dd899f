#include "guest/vcpus.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace mhv::guest {
namespace {

// The head of a section: its kind (full), its number, its name with the length before it, the number of the processor, the version.
constexpr std::byte kFullSection{4};
constexpr std::array kCpuName{std::byte{3}, std::byte{'c'}, std::byte{'p'}, std::byte{'u'}};
constexpr std::size_t kCpuNameAt = 5, kInstanceAt = 9, kVersionAt = 13, kHeadBytes = 17;
constexpr std::uint32_t kCpuVersion = 12;

// Where vmstate_x86_cpu has them (target/i386/machine.c), big-endian.
constexpr std::size_t kRsp = 32, kRip = 128, kRflags = 136, kEs = 236, kCs = 256, kSs = 276, kDs = 296, kFs = 316, kGs = 336, kLdt = 356,
                      kTr = 376, kGdt = 396, kIdt = 416, kCr0 = 456, kCr2 = 464, kCr3 = 472, kCr4 = 480, kEfer = 816, kStar = 824,
                      kLstar = 832, kCstar = 840, kSfmask = 848, kKernelGsBase = 856;
constexpr std::size_t kCpuBytesMin = 864;
constexpr std::size_t kBaseInSegment = 4, kLimitInSegment = 12, kFlagsInSegment = 16;

template <typename T>
T big(std::span<const std::byte> bytes, std::size_t at) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) value = static_cast<T>(value << 8 | std::to_integer<T>(bytes[at + i]));
  return value;
}

ring::Vcpu parse_vcpu(std::span<const std::byte> cpu) {
  const auto u64 = [&](std::size_t at) { return big<std::uint64_t>(cpu, at); };
  ring::Vcpu out;
  out.rip = u64(kRip);
  out.rsp = u64(kRsp);
  out.rflags = u64(kRflags);
  out.cr0 = u64(kCr0);
  out.cr2 = u64(kCr2);
  out.cr3 = u64(kCr3);
  out.cr4 = u64(kCr4);
  out.efer = u64(kEfer);
  out.star = u64(kStar);
  out.lstar = u64(kLstar);
  out.cstar = u64(kCstar);
  out.sfmask = u64(kSfmask);
  out.gs_base = u64(kGs + kBaseInSegment);
  out.kernel_gs_base = u64(kKernelGsBase);
  out.idt_base = u64(kIdt + kBaseInSegment);
  out.idt_limit = big<std::uint32_t>(cpu, kIdt + kLimitInSegment);
  out.gdt_base = u64(kGdt + kBaseInSegment);
  out.gdt_limit = big<std::uint32_t>(cpu, kGdt + kLimitInSegment);
  return out;
}

Segment parse_segment(std::span<const std::byte> segment) {
  return {big<std::uint32_t>(segment, 0), big<std::uint64_t>(segment, kBaseInSegment), big<std::uint32_t>(segment, kLimitInSegment),
          big<std::uint32_t>(segment, kFlagsInSegment)};
}

Registers parse_cpu(std::span<const std::byte> cpu) {
  const auto u64 = [&](std::size_t at) { return big<std::uint64_t>(cpu, at); };
  const auto segment = [&](std::size_t at) { return parse_segment(cpu.subspan(at)); };
  Registers out;
  for (std::size_t i = 0; i < out.general.size(); ++i) out.general[i] = u64(i * sizeof(std::uint64_t));
  out.rip = u64(kRip);
  out.rflags = u64(kRflags);
  out.es = segment(kEs);
  out.cs = segment(kCs);
  out.ss = segment(kSs);
  out.ds = segment(kDs);
  out.fs = segment(kFs);
  out.gs = segment(kGs);
  out.ldt = segment(kLdt);
  out.tr = segment(kTr);
  out.gdt = segment(kGdt);
  out.idt = segment(kIdt);
  out.cr0 = u64(kCr0);
  out.cr2 = u64(kCr2);
  out.cr3 = u64(kCr3);
  out.cr4 = u64(kCr4);
  out.kernel_gs_base = u64(kKernelGsBase);
  return out;
}

template <typename T>
std::vector<T> parse_sections(std::span<const std::byte> state, T (*parse)(std::span<const std::byte>)) {
  std::vector<T> out;
  auto from = state.begin();
  for (;;) {
    const auto name = std::search(from, state.end(), kCpuName.begin(), kCpuName.end());
    if (name == state.end()) return out;
    from = name + 1;
    const auto at = static_cast<std::size_t>(name - state.begin());
    if (at < kCpuNameAt || state.size() - at < kHeadBytes - kCpuNameAt + kCpuBytesMin) continue;
    const std::span<const std::byte> section = state.subspan(at - kCpuNameAt);
    // The numbers go up one by one, so what only looks like a head is hardly taken for one.
    if (section[0] != kFullSection || big<std::uint32_t>(section, kVersionAt) != kCpuVersion) continue;
    if (big<std::uint32_t>(section, kInstanceAt) != out.size() || out.size() == kVcpusMax) continue;
    out.push_back(parse(section.subspan(kHeadBytes)));
    from = name + kCpuBytesMin;
  }
}

}  // namespace

std::vector<ring::Vcpu> parse_vcpus(std::span<const std::byte> state) { return parse_sections(state, parse_vcpu); }

std::vector<Registers> parse_registers(std::span<const std::byte> state) { return parse_sections(state, parse_cpu); }

}  // namespace mhv::guest
