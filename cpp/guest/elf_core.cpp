#include "guest/elf_core.h"

#include <elf.h>
#include <sys/procfs.h>
#include <sys/user.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstring>

#include "guest/bytes.h"
#include "guest/vcpus.h"

namespace mhv::guest {
namespace {

static_assert(std::endian::native == std::endian::little);
static_assert(sizeof(elf_prstatus) == 336 && offsetof(elf_prstatus, pr_pid) == 32 && offsetof(elf_prstatus, pr_reg) == 112);
static_assert(sizeof(user_regs_struct) == sizeof(elf_gregset_t));

// QEMU's own note, version 1 (QEMUCPUState).
struct QemuSegment {
  std::uint32_t selector, limit, flags, pad;
  std::uint64_t base;
};
struct QemuCpu {
  std::uint32_t version, size;
  std::uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp;
  std::array<std::uint64_t, 8> r8_to_r15;
  std::uint64_t rip, rflags;
  QemuSegment cs, ds, es, fs, gs, ss, ldt, tr, gdt, idt;
  std::array<std::uint64_t, 5> cr;
  std::uint64_t kernel_gs_base;
};
static_assert(sizeof(QemuSegment) == 24 && sizeof(QemuCpu) == 440 && offsetof(QemuCpu, cs) == 152 && offsetof(QemuCpu, cr) == 392);

enum General : std::size_t { kRax, kRcx, kRdx, kRbx, kRsp, kRbp, kRsi, kRdi, kR8, kR9, kR10, kR11, kR12, kR13, kR14, kR15 };

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

void add_note(Bytes& out, std::string_view name, std::uint32_t type, std::span<const std::byte> content) {
  const auto pad = [&] { out.zeros_to((out.size() + 3) / 4 * 4); };
  out.little(static_cast<std::uint32_t>(name.size() + 1)).little(static_cast<std::uint32_t>(content.size())).little(type);
  out.text(name).u8(0);
  pad();
  out.raw(content);
  pad();
}

elf_prstatus prstatus(const Registers& from, int number) {
  user_regs_struct regs{};
  regs.rax = from.general[kRax];
  regs.rcx = from.general[kRcx];
  regs.rdx = from.general[kRdx];
  regs.rbx = from.general[kRbx];
  regs.rsp = from.general[kRsp];
  regs.rbp = from.general[kRbp];
  regs.rsi = from.general[kRsi];
  regs.rdi = from.general[kRdi];
  regs.r8 = from.general[kR8];
  regs.r9 = from.general[kR9];
  regs.r10 = from.general[kR10];
  regs.r11 = from.general[kR11];
  regs.r12 = from.general[kR12];
  regs.r13 = from.general[kR13];
  regs.r14 = from.general[kR14];
  regs.r15 = from.general[kR15];
  regs.rip = from.rip;
  regs.eflags = from.rflags;
  regs.cs = from.cs.selector;
  regs.ds = from.ds.selector;
  regs.es = from.es.selector;
  regs.fs = from.fs.selector;
  regs.gs = from.gs.selector;
  regs.ss = from.ss.selector;
  regs.fs_base = from.fs.base;
  regs.gs_base = from.gs.base;
  elf_prstatus out{};
  out.pr_pid = number;
  std::memcpy(&out.pr_reg, &regs, sizeof regs);
  return out;
}

QemuSegment qemu_segment(const Segment& from) { return {from.selector, from.limit, from.flags, 0, from.base}; }

QemuCpu qemu_cpu(const Registers& from) {
  QemuCpu out{};
  out.version = 1;
  out.size = sizeof out;
  out.rax = from.general[kRax];
  out.rbx = from.general[kRbx];
  out.rcx = from.general[kRcx];
  out.rdx = from.general[kRdx];
  out.rsi = from.general[kRsi];
  out.rdi = from.general[kRdi];
  out.rsp = from.general[kRsp];
  out.rbp = from.general[kRbp];
  for (std::size_t i = 0; i < out.r8_to_r15.size(); ++i) out.r8_to_r15[i] = from.general[kR8 + i];
  out.rip = from.rip;
  out.rflags = from.rflags;
  out.cs = qemu_segment(from.cs);
  out.ds = qemu_segment(from.ds);
  out.es = qemu_segment(from.es);
  out.fs = qemu_segment(from.fs);
  out.gs = qemu_segment(from.gs);
  out.ss = qemu_segment(from.ss);
  out.ldt = qemu_segment(from.ldt);
  out.tr = qemu_segment(from.tr);
  out.gdt = qemu_segment(from.gdt);
  out.idt = qemu_segment(from.idt);
  out.cr = {from.cr0, 0, from.cr2, from.cr3, from.cr4};
  out.kernel_gs_base = from.kernel_gs_base;
  return out;
}

std::vector<std::byte> cpu_notes(std::span<const std::byte> state) {
  const std::vector<Registers> cpus = parse_registers(state);
  Bytes out;
  int number = 0;
  for (const Registers& cpu : cpus) add_note(out, "CORE", NT_PRSTATUS, bytes_of(prstatus(cpu, ++number)));
  for (const Registers& cpu : cpus) add_note(out, "QEMU", 0, bytes_of(qemu_cpu(cpu)));
  return std::move(out).take();
}

Elf64_Ehdr core_header(std::size_t segments) {
  Elf64_Ehdr out{};
  std::memcpy(out.e_ident, ELFMAG, SELFMAG);
  out.e_ident[EI_CLASS] = ELFCLASS64;
  out.e_ident[EI_DATA] = ELFDATA2LSB;
  out.e_ident[EI_VERSION] = EV_CURRENT;
  out.e_type = ET_CORE;
  out.e_machine = EM_X86_64;
  out.e_version = EV_CURRENT;
  out.e_phoff = sizeof out;
  out.e_ehsize = sizeof out;
  out.e_phentsize = sizeof(Elf64_Phdr);
  out.e_phnum = static_cast<Elf64_Half>(segments);
  return out;
}

}  // namespace

ElfCore elf_core(std::span<const RamPart> parts, std::span<const std::byte> state) {
  const std::vector<std::byte> notes = cpu_notes(state);
  Elf64_Phdr note{};
  note.p_type = PT_NOTE;
  note.p_offset = sizeof(Elf64_Ehdr) + (1 + parts.size()) * sizeof(Elf64_Phdr);
  note.p_filesz = note.p_memsz = notes.size();
  Bytes head;
  head.raw(bytes_of(core_header(1 + parts.size()))).raw(bytes_of(note));

  ElfCore out;
  out.bytes = (note.p_offset + notes.size() + kPageSize - 1) / kPageSize * kPageSize;
  for (const RamPart& part : parts) {
    Elf64_Phdr load{};  // p_align stays 0: with another one, crash takes the file for another maker's
    load.p_type = PT_LOAD;
    load.p_offset = out.bytes;
    load.p_vaddr = load.p_paddr = part.start;  // a debugger without page tables takes addresses for guest-physical ones
    load.p_filesz = load.p_memsz = part.bytes;
    head.raw(bytes_of(load));
    out.offsets.push_back(out.bytes);
    out.bytes += part.bytes;
  }
  head.raw(notes);
  out.head = std::move(head).take();
  return out;
}

}  // namespace mhv::guest
