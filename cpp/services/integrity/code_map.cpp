#include "integrity/code_map.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "integrity/trees.h"

namespace mhv::integrity {
namespace {

constexpr std::uint64_t kPartBytesMax = 128u << 20;
constexpr std::uint64_t kPage = 4096;
constexpr std::size_t kMadeMax = 1u << 16;
constexpr std::size_t kOpsMax = 4096;

Range between(const Kernel& kernel, const char* start, const char* end) {
  const GuestVirt from = kernel.symbol(start), to = kernel.symbol(end);
  if (to <= from || to - from > kPartBytesMax) {
    throw Error(Code::kUnsupported, std::string("the guest's kernel has ") + start + " and " + end + " where they cannot be",
                "its symbols were tampered with");
  }
  return {from, to - from};
}

}  // namespace

Image::Image(const Kernel& kernel)
    : text(between(kernel, "_stext", "_etext")),
      rodata(between(kernel, "__start_rodata", "__end_rodata")),
      data(between(kernel, "_sdata", "_edata")),
      all(between(kernel, "_stext", "_end")) {}

void CodeMap::set_modules(std::span<const Module> modules) {
  code_ = {image_.text};
  own_ = {image_.all};
  for (const Module& module : modules) {
    if (module.text.bytes != 0) code_.push_back(module.text);
    for (const Range& range : module.memory) {
      own_.push_back(range);
      names_.emplace_back(range, module.name);
    }
  }
  for (auto* ranges : {&code_, &own_}) std::ranges::sort(*ranges, {}, &Range::start);
}

bool CodeMap::has(const std::vector<Range>& sorted, GuestVirt at) {
  const auto behind = std::ranges::upper_bound(sorted, at, {}, &Range::start);
  return behind != sorted.begin() && std::prev(behind)->has(at);
}

bool CodeMap::is_code(GuestVirt at) const { return has(code_, at); }
bool CodeMap::is_own(GuestVirt at) const { return has(own_, at); }

bool CodeMap::is_made(GuestVirt at) {
  if (!made_) find_made();
  return has(*made_, at);
}

// Programs and the trampolines to them stand in one list of symbols.
void CodeMap::add_bpf() {
  const Kernel& kernel = reader_.kernel();
  const auto head = kernel.symbols().find("bpf_kallsyms");
  const auto links = kernel.types().field("bpf_ksym", "lnode"), start = kernel.types().field("bpf_ksym", "start"),
             end = kernel.types().field("bpf_ksym", "end");
  if (!head || !links || !start || !end) return;
  const auto found = walk_list(reader_, *head, kMadeMax);
  if (!found) return;
  for (const GuestVirt link : *found) {
    const GuestVirt symbol{link.value - links->offset};
    const GuestVirt from{reader_.word(symbol + start->offset)}, to{reader_.word(symbol + end->offset)};
    if (from < to && to - from <= kPartBytesMax) made_->push_back({from, to - from});
  }
}

void CodeMap::add_trampoline(GuestVirt operations) {
  const Kernel& kernel = reader_.kernel();
  const auto at = kernel.types().field("ftrace_ops", "trampoline"), bytes = kernel.types().field("ftrace_ops", "trampoline_size");
  if (!at || !bytes) return;
  const GuestVirt trampoline{reader_.word(operations + at->offset)};
  const std::uint64_t size = reader_.word(operations + bytes->offset);
  if (trampoline.value != 0 && size <= kPage) made_->push_back({trampoline, size});
}

// While operations are removed they are off the list, and the sites change back one after the other.
void CodeMap::add_trampolines() {
  const Kernel& kernel = reader_.kernel();
  const auto list = kernel.symbols().find("ftrace_ops_list"), removed = kernel.symbols().find("removed_ops");
  const auto next = kernel.types().field("ftrace_ops", "next");
  if (!list || !next) return;
  GuestVirt operations{reader_.word(*list)};
  for (std::size_t i = 0; i < kOpsMax && operations.value != 0; ++i, operations = {reader_.word(operations + next->offset)}) {
    add_trampoline(operations);
  }
  if (removed) add_trampoline({reader_.word(*removed)});
}

void CodeMap::add_probe_slots(std::string_view cache) {
  const Kernel& kernel = reader_.kernel();
  const auto at = kernel.symbols().find(cache);
  const auto pages = kernel.types().field("kprobe_insn_cache", "pages"), links = kernel.types().field("kprobe_insn_page", "list"),
             slots = kernel.types().field("kprobe_insn_page", "insns");
  if (!at || !pages || !links || !slots) return;
  const auto found = walk_list(reader_, *at + pages->offset, kOpsMax);
  if (!found) return;
  for (const GuestVirt link : *found) made_->push_back({{reader_.word({link.value - links->offset + slots->offset})}, kPage});
}

void CodeMap::find_made() {
  made_.emplace();
  add_bpf();
  add_trampolines();
  add_probe_slots("kprobe_insn_slots");
  add_probe_slots("kprobe_optinsn_slots");
  std::ranges::sort(*made_, {}, &Range::start);
}

std::string CodeMap::describe(GuestVirt at) const {
  if (image_.all.has(at)) return describe_symbol(reader_.kernel(), at);
  for (const auto& [range, name] : names_) {
    if (range.has(at)) return "[" + name + "]+" + hex(at - range.start);
  }
  return hex(at.value) + ", which is neither the kernel's nor a listed module's";
}

std::string hex(std::uint64_t value) {
  std::array<char, 24> text;
  std::snprintf(text.data(), text.size(), "0x%llx", static_cast<unsigned long long>(value));
  return text.data();
}

std::string describe_symbol(const Kernel& kernel, GuestVirt at) {
  constexpr std::uint64_t kNear = 16 << 20;
  const auto symbol = kernel.symbols().before(at);
  if (!symbol || at - symbol->at > kNear) return hex(at.value);
  const std::string name(symbol->name);
  return at == symbol->at ? name : name + "+" + hex(at - symbol->at);
}

}  // namespace mhv::integrity
