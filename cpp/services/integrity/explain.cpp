#include "integrity/explain.h"

#include <algorithm>
#include <array>

namespace mhv::integrity {
namespace {

using introspection::Kallsyms;

constexpr std::string_view kDispatch[] = {"x64_sys_call",
                                          "ia32_sys_call",
                                          "x32_sys_call",
                                          "do_syscall_64",
                                          "do_int80_syscall_32",
                                          "do_fast_syscall_32",
                                          "do_SYSENTER_32",
                                          "entry_SYSCALL_64",
                                          "entry_SYSCALL_64_after_hwframe",
                                          "entry_SYSCALL_compat",
                                          "entry_SYSENTER_compat",
                                          "entry_INT80_compat",
                                          "__do_fast_syscall_32",
                                          "syscall_return_via_sysret"};
constexpr std::string_view kTables[] = {"sys_call_table", "ia32_sys_call_table", "x32_sys_call_table"};
constexpr std::size_t kBytesTold = 16;

bool is_table(std::string_view name) { return std::ranges::find(kTables, name) != std::end(kTables); }

// Of a function the name without what the compiler put behind it.
const char* kind_of_text(std::string_view symbol) {
  const bool dispatches = std::ranges::find(kDispatch, symbol.substr(0, symbol.find('.'))) != std::end(kDispatch);
  return dispatches ? "syscall_dispatch" : "kernel_text";
}

// The last symbol that begins in this granule or before: functions begin on multiples of it.
std::string symbol_of(const Kernel& kernel, GuestVirt granule) {
  const auto symbol = kernel.symbols().before(granule + (kGranule - 1));
  return symbol ? std::string(symbol->name) : hex(granule.value);
}

}  // namespace

std::string Explainer::bytes_at(GuestVirt at) {
  std::array<std::uint8_t, kBytesTold> bytes;
  if (!reader_.read(at, std::as_writable_bytes(std::span(bytes)))) return "nothing";
  std::string out;
  for (const std::uint8_t byte : bytes) {
    constexpr const char* kDigits = "0123456789abcdef";
    out += {kDigits[byte >> 4], kDigits[byte & 15], ' '};
  }
  out.pop_back();
  return out;
}

void Explainer::moved(const Changes& changes, const std::string& where) {
  if (changes.moved.empty()) return;
  const GuestVirt first = changes.moved.front();
  out_.push_back({"page_tables", where.empty() ? describe_symbol(reader_.kernel(), first) : where,
                  std::to_string(changes.moved.size()) + " pages from " + hex(first.value) + " are others than they were", first});
}

void Explainer::sites(const Changes& changes, SiteJudge& judge, const char* kind) {
  for (const Site& site : changes.sites) {
    if (out_.size() >= kFindingsMax) return;
    const std::string subject = map_.describe(site.at);
    const GuestVirt to = judge.target_of(site);
    const char* const what = kind != nullptr ? kind : kind_of_text(subject.substr(0, subject.find('+')));
    out_.push_back({what, subject,
                    "where the kernel itself changes its code now stands " + bytes_at(site.at) +
                        (to.value != 0 ? ", which leads to " + map_.describe(to) : ""),
                    site.at});
  }
}

void Explainer::kernel_text(const Changes& changes, SiteJudge& judge) {
  moved(changes, "");
  sites(changes, judge, nullptr);
  std::string last;
  for (const GuestVirt granule : changes.granules) {
    const std::string symbol = symbol_of(reader_.kernel(), granule);
    if (symbol == last || out_.size() >= kFindingsMax) continue;
    last = symbol;
    out_.push_back({kind_of_text(symbol), symbol,
                    "its code was changed; at " + describe_symbol(reader_.kernel(), granule) + " now stands " + bytes_at(granule),
                    granule});
  }
}

void Explainer::pointer(GuestVirt at, GuestVirt was) {
  const GuestVirt is{reader_.word(at)};
  const auto symbol = reader_.kernel().symbols().before(at);
  std::string name = describe_pointer(reader_.kernel(), at);
  const bool table = symbol && is_table(symbol->name);
  if (table) name = std::string(symbol->name) + "[" + std::to_string((at - symbol->at) / sizeof(GuestVirt)) + "]";
  out_.push_back({table ? "syscall_table" : "function_pointer", name,
                  "leads to " + map_.describe(is) + ", and led to " + describe_symbol(reader_.kernel(), was), at});
}

// A granule is two words.
void Explainer::kernel_rodata(const Changes& changes) {
  moved(changes, "");
  std::string last;
  for (const GuestVirt granule : changes.granules) {
    bool told = false;
    for (const GuestVirt at : {granule, granule + sizeof(GuestVirt)}) {
      const GuestVirt was = pointers_.was_at(at);
      if (was.value == 0 || reader_.word(at) == was.value || out_.size() >= kFindingsMax) continue;
      pointer(at, was);
      told = true;
    }
    const std::string symbol = symbol_of(reader_.kernel(), granule);
    if (told || symbol == last || out_.size() >= kFindingsMax) continue;
    last = symbol;
    out_.push_back({"kernel_rodata", symbol,
                    "it was changed; at " + describe_symbol(reader_.kernel(), granule) + " now stands " + bytes_at(granule), granule});
  }
}

void Explainer::module(const std::string& name, bool text, const Changes& changes, SiteJudge& judge) {
  const char* const kind = text ? "module_text" : "module_rodata";
  moved(changes, name);
  sites(changes, judge, kind);
  if (changes.granules.empty()) return;
  const GuestVirt first = changes.granules.front();
  out_.push_back(
      {kind, name,
       std::to_string(changes.granules.size()) + " places were changed; at " + map_.describe(first) + " now stands " + bytes_at(first),
       first});
}

void check_syscall_tables(Reader& reader, const Image& image, const CodeMap& map, std::vector<Finding>& out) {
  const Kallsyms& symbols = reader.kernel().symbols();
  constexpr std::size_t kCallsMax = 1024;
  for (const std::string_view name : kTables) {
    const auto table = symbols.find(name);
    if (!table || !image.rodata.has(*table)) continue;
    for (std::size_t i = 0; i < kCallsMax && out.size() < kFindingsMax; ++i) {
      const GuestVirt at = *table + i * sizeof(GuestVirt);
      const auto owner = symbols.before(at);
      if (owner && owner->at > *table) break;  // the next symbol begins
      const GuestVirt function{reader.word(at)};
      if (function.value == 0 && i != 0) break;
      const auto symbol = symbols.before(function);
      if (image.text.has(function) && symbol && symbol->at == function && symbol->name.find("sys_") != std::string_view::npos) continue;
      out.push_back({"syscall_table", std::string(name) + "[" + std::to_string(i) + "]", "leads to " + map.describe(function), at});
    }
  }
}

void check_operations(Reader& reader, const Image& image, CodeMap& map, std::vector<Finding>& out) {
  const Kallsyms& symbols = reader.kernel().symbols();
  constexpr std::uint64_t kBytesMax = 512;
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
    const Kallsyms::Symbol symbol = symbols.at(i);
    if (!(image.rodata.has(symbol.at) || image.data.has(symbol.at)) || !is_operations(symbol.name)) continue;
    const std::uint64_t bytes = std::min(symbols.at(i + 1).at - symbol.at, kBytesMax);
    for (std::uint64_t at = 0; at + sizeof(GuestVirt) <= bytes && out.size() < kFindingsMax; at += sizeof(GuestVirt)) {
      const GuestVirt to{reader.word(symbol.at + at)};
      if (to.value < kKernelSpace || map.is_own(to) || map.is_made(to)) continue;
      out.push_back(
          {"function_pointer", describe_pointer(reader.kernel(), symbol.at + at), "leads to " + map.describe(to), symbol.at + at});
    }
  }
}

}  // namespace mhv::integrity
