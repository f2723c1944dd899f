#include "integrity/sites.h"

#include <algorithm>
#include <cstring>

namespace mhv::integrity {
namespace {

using introspection::Kallsyms;

constexpr std::uint8_t kCall = 0xe8, kJump = 0xe9, kShortJump = 0xeb, kInt3 = 0xcc, kReturn = 0xc3;
constexpr std::size_t kSitesMax = 1u << 20;
constexpr std::size_t kRecordPagesMax = 1u << 14;

// struct jump_entry and struct static_call_site: places are relative to where they are written.
struct JumpEntry {
  std::int32_t code, target;
  std::int64_t key;
};
static_assert(sizeof(JumpEntry) == 16);
struct StaticCallEntry {
  std::int32_t code, key;
};
static_assert(sizeof(StaticCallEntry) == 8);

GuestVirt relative(GuestVirt from, std::int64_t offset) { return from + static_cast<std::uint64_t>(offset); }

template <typename Bytes>
GuestVirt destination(GuestVirt at, const Bytes& now, std::size_t opcode_bytes) {
  std::int32_t offset;
  std::memcpy(&offset, now.data() + opcode_bytes, sizeof offset);
  return relative(at + opcode_bytes + sizeof offset, offset);
}

template <typename Bytes>
bool is_nop5(const Bytes& now) {
  constexpr std::uint8_t kNops[][5] = {{0x0f, 0x1f, 0x44, 0, 0}, {0x66, 0x66, 0x66, 0x66, 0x90}, {0x3e, 0x8d, 0x74, 0x26, 0}};
  return std::ranges::any_of(kNops, [&](const auto& nop) { return std::memcmp(now.data(), nop, sizeof nop) == 0; });
}

// xor eax, eax: a call of a function that only returns 0.
template <typename Bytes>
bool is_zero5(const Bytes& now) {
  constexpr std::uint8_t kZeros[][5] = {{0x2e, 0x2e, 0x2e, 0x31, 0xc0}, {0x66, 0x66, 0x48, 0x31, 0xc0}};
  return std::ranges::any_of(kZeros, [&](const auto& zero) { return std::memcmp(now.data(), zero, sizeof zero) == 0; });
}

// A table of `T` read at once; what is beyond the limit is not looked at.
template <typename T>
std::vector<T> read_table(Reader& reader, GuestVirt at, std::size_t count) {
  std::vector<T> out(std::min(count, kSitesMax));
  if (!reader.read(at, std::as_writable_bytes(std::span(out)))) out.clear();
  return out;
}

void add_jumps(Reader& reader, GuestVirt table, std::size_t count, const Range& text, std::vector<Site>& out) {
  const auto entries = read_table<JumpEntry>(reader, table, count);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const GuestVirt entry = table + i * sizeof(JumpEntry);
    const GuestVirt at = relative(entry + offsetof(JumpEntry, code), entries[i].code);
    if (!text.has(at)) continue;  // of what is only there at the start
    const std::uint8_t first = reader.get<std::uint8_t>(at).value_or(0);
    const std::uint8_t bytes = first == 0x66 && reader.get<std::uint8_t>(at + 1) == std::uint8_t{0x90} ? 2 : first == kShortJump ? 2 : 5;
    out.push_back({at, relative(entry + offsetof(JumpEntry, target), entries[i].target), Site::Kind::kJump, bytes});
  }
}

void add_static_calls(Reader& reader, GuestVirt table, std::size_t count, const Range& text, std::vector<Site>& out) {
  constexpr std::uint64_t kFlags = 3;
  const auto entries = read_table<StaticCallEntry>(reader, table, count);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const GuestVirt entry = table + i * sizeof(StaticCallEntry);
    const GuestVirt at = relative(entry + offsetof(StaticCallEntry, code), entries[i].code);
    const GuestVirt key = relative(entry + offsetof(StaticCallEntry, key), entries[i].key);
    if (!text.has(at)) continue;
    const bool conditional =
        reader.get<std::uint8_t>(at) == std::uint8_t{0x0f} && (reader.get<std::uint8_t>(at + 1).value_or(0) & 0xf0) == 0x80;
    out.push_back({at, {key.value & ~kFlags}, Site::Kind::kStaticCall, static_cast<std::uint8_t>(conditional ? 6 : 5)});
  }
}

// What a call by name goes through: __SCT__x jumps to what __SCK__x holds.
void add_trampolines(Reader& reader, const Range& text, std::vector<Site>& out) {
  constexpr std::string_view kTrampoline = "__SCT__";
  const Kallsyms& symbols = reader.kernel().symbols();
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    const Kallsyms::Symbol symbol = symbols.at(i);
    if (!symbol.name.starts_with(kTrampoline) || !text.has(symbol.at)) continue;
    const auto key = symbols.find("__SCK__" + std::string(symbol.name.substr(kTrampoline.size())));
    if (key) out.push_back({symbol.at, *key, Site::Kind::kStaticCall, 5});
  }
}

// struct ftrace_page, a list of arrays of struct dyn_ftrace.
void add_traced(Reader& reader, const Range& text, std::vector<Site>& out) {
  const Kernel& kernel = reader.kernel();
  const auto first = kernel.symbols().find("ftrace_pages_start");
  const auto next = kernel.types().field("ftrace_page", "next"), records = kernel.types().field("ftrace_page", "records"),
             count = kernel.types().field("ftrace_page", "index"), ip = kernel.types().field("dyn_ftrace", "ip");
  const auto record = kernel.types().find("dyn_ftrace");
  const std::uint64_t bytes = record ? kernel.types().size_of(*record) : 0;
  if (!first || !next || !records || !count || !ip || bytes < ip->offset + 8 || bytes > 64) return;
  GuestVirt page{reader.word(*first)};
  for (std::size_t i = 0; i < kRecordPagesMax && page.value != 0 && out.size() < kSitesMax;
       ++i, page = {reader.word(page + next->offset)}) {
    const auto used = reader.get<std::int32_t>(page + count->offset);
    const GuestVirt array{reader.word(page + records->offset)};
    if (!used || *used <= 0 || *used > (1 << 16)) continue;
    Structure all;
    if (!all.read(reader, array, static_cast<std::size_t>(*used) * bytes)) continue;
    for (std::size_t n = 0; n < static_cast<std::size_t>(*used); ++n) {
      const GuestVirt at = all.pointer(n * bytes + ip->offset);
      if (text.has(at)) out.push_back({at, {}, Site::Kind::kFtrace, 5});
    }
  }
}

// Sorted, and without those that are not what they ought to be, or that overlap.
std::vector<Site> only_good(Reader& reader, CodeMap& map, std::vector<Site> sites) {
  SiteJudge judge(reader, map);
  std::erase_if(sites, [&](const Site& site) { return judge.judge(site) == SiteState::kWrong; });
  std::ranges::stable_sort(sites, {}, &Site::at);
  const auto overlap = [](const Site& a, const Site& b) { return b.at - a.at < a.bytes; };
  sites.erase(std::unique(sites.begin(), sites.end(), overlap), sites.end());
  return sites;
}

}  // namespace

SiteJudge::SiteJudge(Reader& reader, CodeMap& map) : reader_(reader), map_(map) {
  const auto find = [&](std::string_view name) { return reader.kernel().symbols().find(name).value_or(GuestVirt{}); };
  caller_ = find("ftrace_caller");
  regs_caller_ = find("ftrace_regs_caller");
  std::ranges::transform(kReturnThunks, return_thunks_.begin(), find);
  return0_ = find("__static_call_return0");
  text_lock_ = reader.kernel().symbols().find("text_mutex");
  call_lock_ = reader.kernel().symbols().find("static_call_mutex");
}

// struct mutex begins with its owner; the lowest bits are flags.
bool SiteJudge::is_held(std::optional<GuestVirt> mutex) {
  constexpr std::uint64_t kFlags = 7;
  return mutex && (reader_.word(*mutex) & ~kFlags) != 0;
}

bool SiteJudge::is_jump(const Site& site, const Bytes& now) const {
  if (site.bytes == 2) {
    const bool nop = now[0] == 0x66 && now[1] == 0x90;
    return nop || (now[0] == kShortJump && relative(site.at + 2, static_cast<std::int8_t>(now[1])) == site.target);
  }
  return is_nop5(now) || (now[0] == kJump && destination(site.at, now, 1) == site.target);
}

bool SiteJudge::is_traced(const Site& site, const Bytes& now) {
  if (is_nop5(now)) return true;
  if (now[0] != kCall && now[0] != kJump) return false;
  const GuestVirt to = destination(site.at, now, 1);
  return map_.is_made(to) || (now[0] == kCall && (to == caller_ || to == regs_caller_));
}

bool SiteJudge::is_static_call(const Site& site, const Bytes& now) {
  const GuestVirt function{reader_.word(site.target)};
  const bool conditional = site.bytes == 6;
  if (conditional && (now[0] != 0x0f || (now[1] & 0xf0) != 0x80)) return false;
  if (conditional || now[0] == kCall || now[0] == kJump) {
    const GuestVirt to = destination(site.at, now, conditional ? 2 : 1);
    if (to == function) return map_.is_code(to) || map_.is_made(to);
    return function.value == 0 && std::ranges::find(return_thunks_, to) != return_thunks_.end();
  }
  if (is_zero5(now)) return function == return0_;
  return (is_nop5(now) || now[0] == kReturn) && function.value == 0;
}

GuestVirt SiteJudge::target_of(const Site& site) {
  const auto now = reader_.get<Bytes>(site.at);
  if (!now || site.bytes < 5) return {};
  if (site.bytes == 6) return destination(site.at, *now, 2);
  return (*now)[0] == kCall || (*now)[0] == kJump ? destination(site.at, *now, 1) : GuestVirt{};
}

SiteState SiteJudge::judge_bytes(const Site& site, const Bytes& now) {
  const auto either = [](bool right) { return right ? SiteState::kRight : SiteState::kWrong; };
  switch (site.kind) {
    case Site::Kind::kJump: return either(is_jump(site, now));
    case Site::Kind::kFtrace: return either(is_traced(site, now));
    // The key is set before the sites are.
    case Site::Kind::kStaticCall: {
      if (is_static_call(site, now)) return SiteState::kRight;
      return is_held(call_lock_) ? SiteState::kChanging : SiteState::kWrong;
    }
    case Site::Kind::kFtraceEntry: return either((now[0] == kCall || now[0] == kJump) && map_.is_code(destination(site.at, now, 1)));
  }
  return SiteState::kWrong;
}

SiteState SiteJudge::judge(const Site& site) {
  const auto now = reader_.get<Bytes>(site.at);
  if (!now) return SiteState::kWrong;
  if ((*now)[0] == kInt3) return is_held(text_lock_) ? SiteState::kChanging : SiteState::kWrong;
  return judge_bytes(site, *now);
}

std::vector<Site> kernel_sites(Reader& reader, CodeMap& map, const Image& image) {
  const Kallsyms& symbols = reader.kernel().symbols();
  std::vector<Site> out;
  const auto table = [&](const char* start, const char* stop, std::size_t bytes) -> std::pair<GuestVirt, std::size_t> {
    const auto from = symbols.find(start), to = symbols.find(stop);
    if (!from || !to || *to <= *from) return {{}, 0};
    return {*from, (*to - *from) / bytes};
  };
  const auto [jumps, jump_count] = table("__start___jump_table", "__stop___jump_table", sizeof(JumpEntry));
  add_jumps(reader, jumps, jump_count, image.text, out);
  const auto [calls, call_count] = table("__start_static_call_sites", "__stop_static_call_sites", sizeof(StaticCallEntry));
  add_static_calls(reader, calls, call_count, image.text, out);
  add_trampolines(reader, image.text, out);
  add_traced(reader, image.text, out);
  for (const char* name : {"ftrace_call", "ftrace_regs_call", "ftrace_graph_call"}) {
    const auto at = symbols.find(name);
    if (at && image.text.has(*at)) out.push_back({*at, {}, Site::Kind::kFtraceEntry, 5});
  }
  return only_good(reader, map, std::move(out));
}

std::vector<Site> module_sites(Reader& reader, CodeMap& map, const Module& module) {
  std::vector<Site> out;
  add_jumps(reader, module.jumps, module.jump_count, module.text, out);
  add_static_calls(reader, module.static_calls, module.static_call_count, module.text, out);
  add_traced(reader, module.text, out);
  return only_good(reader, map, std::move(out));
}

}  // namespace mhv::integrity
