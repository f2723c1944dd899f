#include "guest/elf_core.h"

#include <elf.h>
#include <gmock/gmock.h>
#include <sys/procfs.h>
#include <sys/user.h>

#include <cstring>
#include <string>

#include "guest/bytes.h"

namespace mhv::guest {
namespace {

constexpr std::uint64_t kGib = 1ull << 30;

// A processor in which each field is its own place, and its number.
Bytes state_of(std::uint32_t processors) {
  Bytes out;
  for (std::uint32_t cpu = 0; cpu < processors; ++cpu) {
    out.u8(4).big(std::uint32_t{7}).u8(3).text("cpu").big(cpu).big(std::uint32_t{12});
    for (std::uint32_t at = 0; at < 1200; at += 4) out.big(cpu << 16 | at);
  }
  return out;
}

template <typename T>
T read(std::span<const std::byte> bytes, std::size_t at) {
  T out{};
  EXPECT_LE(at + sizeof out, bytes.size());
  std::memcpy(&out, bytes.data() + at, sizeof out);
  return out;
}

struct Note {
  std::string name;
  std::uint32_t type = 0;
  std::span<const std::byte> content;
};

// As a reader goes through them.
std::vector<Note> notes_of(const ElfCore& core) {
  const auto segment = read<Elf64_Phdr>(core.head, sizeof(Elf64_Ehdr));
  EXPECT_EQ(segment.p_type, std::uint32_t{PT_NOTE});
  EXPECT_EQ(segment.p_offset + segment.p_filesz, core.head.size());
  std::vector<Note> out;
  std::size_t at = segment.p_offset;
  while (at < core.head.size()) {
    const auto header = read<Elf64_Nhdr>(core.head, at);
    at += sizeof header;
    const auto* name = reinterpret_cast<const char*>(core.head.data() + at);
    at += (header.n_namesz + 3) / 4 * 4;
    out.push_back({std::string(name, header.n_namesz - 1), header.n_type, std::span(core.head).subspan(at, header.n_descsz)});
    at += (header.n_descsz + 3) / 4 * 4;
  }
  EXPECT_EQ(at, core.head.size());
  return out;
}

TEST(ElfCore, SaysWhereEachPartIs) {
  const std::vector<RamPart> parts{{0, 3 * kGib, {0}}, {4 * kGib, kGib, {786432}}};
  const ElfCore core = elf_core(parts, state_of(2).view());
  const auto header = read<Elf64_Ehdr>(core.head, 0);
  EXPECT_EQ(std::memcmp(header.e_ident, ELFMAG, SELFMAG), 0);
  EXPECT_EQ(header.e_ident[EI_CLASS], ELFCLASS64);
  EXPECT_EQ(header.e_type, ET_CORE);
  EXPECT_EQ(header.e_machine, EM_X86_64);
  ASSERT_EQ(header.e_phnum, 3);
  ASSERT_EQ(core.offsets.size(), 2);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto load = read<Elf64_Phdr>(core.head, header.e_phoff + (i + 1) * header.e_phentsize);
    EXPECT_EQ(load.p_type, std::uint32_t{PT_LOAD});
    EXPECT_EQ(load.p_paddr, parts[i].start);
    EXPECT_EQ(load.p_offset, core.offsets[i]);
    EXPECT_EQ(load.p_offset % kPageSize, 0);
    EXPECT_EQ(load.p_filesz, parts[i].bytes);
    EXPECT_EQ(load.p_memsz, parts[i].bytes);
    EXPECT_EQ(load.p_align, 0) << "or crash does not read it";
  }
  EXPECT_GE(core.offsets[0], core.head.size());
  EXPECT_EQ(core.offsets[1], core.offsets[0] + parts[0].bytes);
  EXPECT_EQ(core.bytes, core.offsets[1] + parts[1].bytes);
}

TEST(ElfCore, HasTheRegistersOfEachProcessor) {
  const ElfCore core = elf_core(std::vector<RamPart>{{0, kGib, {0}}}, state_of(2).view());
  const auto notes = notes_of(core);
  ASSERT_EQ(notes.size(), 4);
  EXPECT_EQ(notes[1].name, "CORE");
  EXPECT_EQ(notes[1].type, std::uint32_t{NT_PRSTATUS});
  const auto status = read<elf_prstatus>(notes[1].content, 0);
  EXPECT_EQ(status.pr_pid, 2);
  user_regs_struct regs{};
  std::memcpy(&regs, &status.pr_reg, sizeof regs);
  EXPECT_EQ(regs.rbx, 0x00010018'0001001cu);
  EXPECT_EQ(regs.r15, 0x00010078'0001007cu);
  EXPECT_EQ(regs.rip, 0x00010080'00010084u);
  EXPECT_EQ(regs.ss, 0x10114u);
  EXPECT_EQ(regs.fs_base, 0x00010140'00010144u);

  EXPECT_EQ(notes[2].name, "QEMU");
  EXPECT_EQ(notes[2].type, 0);
  ASSERT_EQ(notes[2].content.size(), 440);
  EXPECT_EQ(read<std::uint32_t>(notes[2].content, 0), 1);
  EXPECT_EQ(read<std::uint32_t>(notes[2].content, 4), 440);
  constexpr std::size_t kSegments = 152, kSegmentBytes = 24, kIdt = kSegments + 9 * kSegmentBytes, kCr3 = 392 + 3 * 8;
  EXPECT_EQ(read<std::uint32_t>(notes[2].content, kIdt + 4), 0x1ac) << "its limit";
  EXPECT_EQ(read<std::uint64_t>(notes[2].content, kIdt + 16), 0x000001a4'000001a8) << "its base";
  EXPECT_EQ(read<std::uint64_t>(notes[2].content, kCr3), 0x000001d8'000001dc);
}

TEST(ElfCore, OfAGuestWithoutProcessorsThatAreUnderstoodHoldsItsMemory) {
  const ElfCore core = elf_core(std::vector<RamPart>{{0, kGib, {0}}}, {});
  EXPECT_TRUE(notes_of(core).empty());
  EXPECT_EQ(core.bytes, core.offsets[0] + kGib);
}

}  // namespace
}  // namespace mhv::guest
