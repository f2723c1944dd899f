#include "guest/vcpus.h"

#include <gtest/gtest.h>

#include "guest/bytes.h"

namespace mhv::guest {
namespace {

// A section "cpu" in which each field is its own place.
Bytes cpu(std::uint32_t instance, std::uint32_t version = 12) {
  Bytes out;
  out.u8(4).big(std::uint32_t{7}).u8(3).text("cpu").big(instance).big(version);
  for (std::uint32_t at = 0; at < 1200; at += 4) out.big(instance << 16 | at);
  return out;
}

TEST(Vcpus, AreReadFromTheirSections) {
  Bytes state;
  state.text("QEVM").big(std::uint32_t{3}).u8(4).big(std::uint32_t{1}).u8(10).text("cpu_common").zeros_to(100);
  state.raw(cpu(0).view()).text("cpu").raw(cpu(1).view()).u8(0x7e);
  const auto vcpus = parse_vcpus(state.view());
  ASSERT_EQ(vcpus.size(), 2);
  EXPECT_EQ(vcpus[0].rip, 0x00000080'00000084);
  EXPECT_EQ(vcpus[0].cr0, 0x000001c8'000001cc);
  EXPECT_EQ(vcpus[1].cr3, 0x000101d8'000101dc);
  EXPECT_EQ(vcpus[1].cr4, 0x000101e0'000101e4);
  EXPECT_EQ(vcpus[1].efer, 0x00010330'00010334);
  EXPECT_EQ(vcpus[1].lstar, 0x00010340'00010344);
  EXPECT_EQ(vcpus[1].idt_base, 0x000101a4'000101a8);
  EXPECT_EQ(vcpus[1].idt_limit, 0x000101ac);
  EXPECT_EQ(vcpus[1].kernel_gs_base, 0x00010358'0001035c);
}

TEST(Vcpus, WithAllTheirRegisters) {
  const auto registers = parse_registers(cpu(0).view());
  ASSERT_EQ(registers.size(), 1);
  EXPECT_EQ(registers[0].general[0], 0x00000000'00000004);
  EXPECT_EQ(registers[0].general[15], 0x00000078'0000007c);
  EXPECT_EQ(registers[0].rflags, 0x00000088'0000008c);
  EXPECT_EQ(registers[0].cs.selector, 0x100);
  EXPECT_EQ(registers[0].cs.base, 0x00000104'00000108);
  EXPECT_EQ(registers[0].cs.limit, 0x10c);
  EXPECT_EQ(registers[0].cs.flags, 0x110);
  EXPECT_EQ(registers[0].idt.base, parse_vcpus(cpu(0).view())[0].idt_base);
  EXPECT_EQ(registers[0].cr3, 0x000001d8'000001dc);
  EXPECT_EQ(registers[0].kernel_gs_base, 0x00000358'0000035c);
}

TEST(Vcpus, NothingIsTakenForOne) {
  EXPECT_TRUE(parse_vcpus({}).empty());
  EXPECT_TRUE(parse_vcpus(cpu(0, 11).view()).empty());         // another version
  EXPECT_TRUE(parse_vcpus(cpu(1).view()).empty());             // the first is missing
  EXPECT_TRUE(parse_vcpus(cpu(0).view().first(600)).empty());  // cut off
  EXPECT_TRUE(parse_vcpus(cpu(0).view().subspan(1)).empty());
}

}  // namespace
}  // namespace mhv::guest
