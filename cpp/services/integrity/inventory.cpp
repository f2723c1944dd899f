#include "integrity/inventory.h"

#include "integrity/trees.h"

namespace mhv::integrity {
namespace {

constexpr std::size_t kBuckets = 64;  // KPROBE_TABLE_SIZE
constexpr std::size_t kProbesMax = 1u << 14;
constexpr std::size_t kProgramsMax = 1u << 16;
constexpr std::uint32_t kGone = 1, kDisabled = 2, kOptimised = 4, kByFtrace = 8;  // KPROBE_FLAG_*

}  // namespace

Probes::Probes(const Kernel& kernel)
    : table_(kernel.symbol("kprobe_table")),
      links_(kernel.offset("kprobe", "hlist")),
      at_(kernel.offset("kprobe", "addr")),
      handler_(kernel.offset("kprobe", "pre_handler")),
      opcode_(kernel.offset("kprobe", "opcode")),
      flags_(kernel.offset("kprobe", "flags")),
      copied_(kernel.offset("optimized_kprobe", "optinsn.copied_insn")) {}

std::vector<Probe> Probes::list(Reader& reader) const {
  std::vector<Probe> out;
  for (std::size_t i = 0; i < kBuckets; ++i) {
    GuestVirt link{reader.word(table_ + i * sizeof(GuestVirt))};
    for (; link.value != 0 && out.size() < kProbesMax; link = {reader.word(link)}) {
      const GuestVirt probe{link.value - links_};
      const auto flags = reader.get<std::uint32_t>(probe + flags_);
      const auto opcode = reader.get<std::byte>(probe + opcode_);
      if (!flags || !opcode) break;
      if ((*flags & (kGone | kDisabled)) != 0) continue;
      Probe one{{reader.word(probe + at_)}, {reader.word(probe + handler_)}, (*flags & kOptimised) != 0, (*flags & kByFtrace) != 0, {}};
      one.was[0] = *opcode;
      if (one.jumps && !reader.read(probe + copied_, std::span(one.was).subspan(1))) continue;
      out.push_back(one);
    }
  }
  return out;
}

std::vector<BpfProgram> bpf_programs(Reader& reader) {
  const Kernel& kernel = reader.kernel();
  const RadixTree radix(kernel);
  const GuestVirt table = kernel.symbol("prog_idr");
  const std::uint32_t tree = kernel.offset("idr", "idr_rt"), type = kernel.offset("bpf_prog", "type"),
                      code = kernel.offset("bpf_prog", "bpf_func"), more = kernel.offset("bpf_prog", "aux"),
                      id = kernel.offset("bpf_prog_aux", "id"), name = kernel.offset("bpf_prog_aux", "name");
  std::vector<BpfProgram> out;
  const auto found = radix.entries(reader, table + tree, kProgramsMax);
  if (!found) return out;
  for (const GuestVirt program : *found) {
    const GuestVirt aux{reader.word(program + more)};
    const auto number = reader.get<std::uint32_t>(aux + id);
    if (!number) continue;
    out.push_back({*number, reader.get<std::uint32_t>(program + type).value_or(0), reader.name(aux + name), {reader.word(program + code)}});
  }
  return out;
}

}  // namespace mhv::integrity
