#include "integrity/processors.h"

#include <algorithm>

#include "base/error.h"

namespace mhv::integrity {
namespace {

bool is_up(const Registers& one) { return (one.cr0 & kCr0Paging) != 0 && (one.efer & kEferLongMode) != 0 && one.idt_base >= kKernelSpace; }

}  // namespace

// A bit counts as set where it is in all that are up.
Processors::Processors(Reader& reader, std::span<const Registers> registers)
    : kernel_(reader.kernel()), entry_(kernel_.symbols().find("entry_SYSCALL_64").value_or(GuestVirt{})) {
  const auto first = std::ranges::find_if(registers, is_up);
  if (first == registers.end() || !reader.read({first->idt_base}, std::as_writable_bytes(std::span(gates_)))) {
    throw Error(Code::kBusy, "no processor of the guest runs its kernel yet", "try again when the guest has started");
  }
  trusted_ = *first;
  for (const Registers& one : registers) {
    if (!is_up(one) || one.idt_base != trusted_.idt_base) continue;
    trusted_.cr0 &= one.cr0;
    trusted_.cr4 &= one.cr4;
    trusted_.efer &= one.efer;
  }
}

void Processors::check_one(const Kernel& kernel, const Image& image, std::size_t number, const Registers& now,
                           std::vector<Finding>& out) const {
  const std::string subject = "cpu " + std::to_string(number);
  const auto tell = [&](const char* kind, std::string detail, GuestVirt at = {}) { out.push_back({kind, subject, std::move(detail), at}); };
  if (now.idt_base != trusted_.idt_base || now.idt_limit != trusted_.idt_limit) {
    tell("idt", "its gates are at " + hex(now.idt_base) + ", and were at " + hex(trusted_.idt_base), {now.idt_base});
  }
  const GuestVirt lstar{now.lstar};
  if (now.lstar != trusted_.lstar || (entry_.value != 0 && now.lstar != 0 && lstar != entry_)) {
    tell("lstar",
         "system calls enter at " + (image.text.has(lstar) ? describe_symbol(kernel, lstar) : hex(now.lstar)) + ", and entered at " +
             describe_symbol(kernel, {trusted_.lstar}),
         lstar);
  }
  struct Bit {
    const char* kind;
    const char* name;
    std::uint64_t was, is, mask;
  };
  for (const Bit& bit :
       {Bit{"cr0_wp", "CR0.WP", trusted_.cr0, now.cr0, kCr0WriteProtect}, Bit{"smep", "CR4.SMEP", trusted_.cr4, now.cr4, kCr4Smep},
        Bit{"smap", "CR4.SMAP", trusted_.cr4, now.cr4, kCr4Smap}, Bit{"umip", "CR4.UMIP", trusted_.cr4, now.cr4, kCr4Umip},
        Bit{"efer_nx", "EFER.NXE", trusted_.efer, now.efer, kEferNoExecute}}) {
    if ((bit.was & bit.mask) != 0 && (bit.is & bit.mask) == 0) tell(bit.kind, std::string(bit.name) + " was set and is clear");
  }
  // Of a process's own tables; those that it uses in user mode may lack most of the kernel.
  const introspection::AddressSpace used(kernel.space().memory(), now.cr3, (now.cr4 & kCr4FiveLevels) != 0);
  constexpr std::uint64_t kStep = 2 << 20;
  for (GuestVirt at = image.text.start; at < image.rodata.end(); at = at + kStep) {
    const auto there = used.translate(at), own = kernel.space().translate(at);
    if (!there || !own || there->at == own->at) continue;
    tell("page_tables", "its page tables lead to another page for " + describe_symbol(kernel, at), at);
    break;
  }
}

void Processors::check_gates(Reader& reader, const Image& image, std::vector<Finding>& out) const {
  Gates now;
  if (!reader.read({trusted_.idt_base}, std::as_writable_bytes(std::span(now)))) {
    out.push_back({"idt", "IDT", "its gates are not there any more", {trusted_.idt_base}});
    return;
  }
  for (std::size_t i = 0; i < kGates; ++i) {
    // Vectors that nothing uses lead to code of the start, which is not there any more.
    constexpr std::uint16_t kPresent = 0x8000;
    if (now[i] == gates_[i] && ((now[i].bits & kPresent) == 0 || image.all.has(now[i].handler()))) continue;
    out.push_back({"idt", "vector " + std::to_string(i),
                   "leads to " +
                       (image.text.has(now[i].handler()) ? describe_symbol(kernel_, now[i].handler()) : hex(now[i].handler().value)) +
                       ", and led to " + describe_symbol(kernel_, gates_[i].handler()),
                   GuestVirt{trusted_.idt_base} + i * sizeof(Gate)});
  }
}

// One that is just being brought up has not got its registers yet.
void Processors::check(Reader& reader, const Image& image, std::span<const Registers> registers, std::vector<Finding>& out) const {
  for (std::size_t i = 0; i < registers.size(); ++i) {
    const bool starting = !is_up(registers[i]) || (registers[i].lstar == 0 && registers[i].idt_base != trusted_.idt_base);
    if (!starting) check_one(kernel_, image, i, registers[i], out);
  }
  check_gates(reader, image, out);
}

}  // namespace mhv::integrity
