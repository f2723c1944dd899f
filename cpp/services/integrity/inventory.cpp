#include "integrity/inventory.h"

#include "integrity/trees.h"

namespace mhv::integrity {
namespace {

constexpr std::size_t kBuckets = 64;  // KPROBE_TABLE_SIZE
constexpr std::size_t kProbesMax = 1u << 14;
constexpr std::size_t kProgramsMax = 1u << 16;
constexpr std::uint32_t kGone = 1, kDisabled = 2, kByFtrace = 8;  // KPROBE_FLAG_*

}  // namespace

Probes::Probes(const Kernel& kernel)
    : table_(kernel.symbol("kprobe_table")),
      links_(kernel.offset("kprobe", "hlist")),
      at_(kernel.offset("kprobe", "addr")),
      handler_(kernel.offset("kprobe", "pre_handler")),
      opcode_(kernel.offset("kprobe", "opcode")),
      flags_(kernel.offset("kprobe", "flags")),
      copied_(kernel.offset("optimized_kprobe", "optinsn.copied_insn")),
      optimiser_links_(kernel.offset("optimized_kprobe", "list")),
      optimiser_probe_(kernel.offset("optimized_kprobe", "kp")) {
  for (const char* name : {"optimizing_list", "unoptimizing_list", "freeing_list"}) {
    if (const auto list = kernel.symbols().find(name)) optimiser_.push_back(*list);
  }
}

void Probes::add(Reader& reader, GuestVirt probe, bool is_ending, std::vector<Probe>& out) const {
  const auto flags = reader.get<std::uint32_t>(probe + flags_);
  const auto opcode = reader.get<std::byte>(probe + opcode_);
  if (!flags || !opcode) return;
  Probe one{{reader.word(probe + at_)},
            {reader.word(probe + handler_)},
            (*flags & kByFtrace) != 0,
            is_ending || (*flags & (kGone | kDisabled)) != 0,
            {}};
  one.was[0] = *opcode;
  reader.read({probe.value - optimiser_probe_ + copied_}, std::span(one.was).subspan(1));  // only of one that can jump it says something
  out.push_back(one);
}

// One that ends may be in the table no more, while its jump waits for the optimiser.
std::vector<Probe> Probes::list(Reader& reader) const {
  std::vector<Probe> out;
  for (std::size_t i = 0; i < kBuckets; ++i) {
    GuestVirt link{reader.word(table_ + i * sizeof(GuestVirt))};
    for (; link.value != 0 && out.size() < kProbesMax; link = {reader.word(link)}) add(reader, {link.value - links_}, false, out);
  }
  for (const GuestVirt list : optimiser_) {
    for (const GuestVirt link : walk_list(reader, list, kProbesMax).value_or(std::vector<GuestVirt>{})) {
      add(reader, {link.value - optimiser_links_ + optimiser_probe_}, true, out);
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
