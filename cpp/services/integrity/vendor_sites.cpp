#include "integrity/vendor_sites.h"

#include <algorithm>

#include "base/error.h"

namespace mhv::integrity {
namespace {

using Kind = VendorSite::Kind;

constexpr std::size_t kSitesMax = 1u << 21;
constexpr std::size_t kSiteMax = 256;

LinkedAt relative(LinkedAt from, std::int64_t offset) { return from + static_cast<std::uint64_t>(offset); }

class Collector {
 public:
  explicit Collector(const VendorImage& image)
      : image_(image), text_(image.section(".text")), replacements_(image.section(".altinstr_replacement")) {}

  // Tables of distances from where they are written.
  void places(std::string_view section, Kind kind, std::uint32_t bytes, LinkedAt other = {}) {
    const auto table = image_.section(section);
    for (std::size_t i = 0; i + 4 <= table.bytes.size(); i += 4) add({place(table, i), bytes, kind, {}, other, 0});
  }

  // A NOP stands before it, of a kind that makes it 6 bytes long; so is a conditional jump.
  void retpolines() {
    const auto table = image_.section(".retpoline_sites");
    for (std::size_t i = 0; i + 4 <= table.bytes.size(); i += 4) {
      const LinkedAt at = place(table, i);
      const auto first = image_.get<std::uint8_t>(at).value_or(0);
      add({at, first == 0xe8 || first == 0xe9 ? 5u : 6u, Kind::kRetpoline, {}, {}, 0});
    }
  }

  // struct paravirt_patch_site: an address, a type, a length.
  void indirect_calls() {
    constexpr std::size_t kStride = 16, kLength = 9;
    const auto table = image_.section(".parainstructions");
    for (std::size_t i = 0; i + kLength < table.bytes.size(); i += kStride) {
      add({{take<std::uint64_t>(table, i)}, take<std::uint8_t>(table, i + kLength), Kind::kIndirect, {}, {}, 0});
    }
  }

  // struct alt_instr: two distances, a feature (2 bytes, since 6.3 4), how long the code is and the alternative; up to 5.12 how much of
  // the code is padding. Which it is the table itself says: each entry leads to code.
  void alternatives() {
    const auto table = image_.section(".altinstructions");
    for (const auto& [stride, lengths] : {std::pair<std::size_t, std::size_t>{14, 12}, {12, 10}, {13, 10}}) {
      if (table.bytes.size() % stride == 0 && add_alternatives(table, stride, lengths)) return;
    }
    throw Error(Code::kCorrupt, "the vendor's kernel has a table of alternatives of an unknown form");
  }

  void constants() {
    for (const auto& [prefix, bytes] : {std::pair<std::string, std::uint32_t>{"runtime_ptr_", 8}, {"runtime_shift_", 1}}) {
      for (const std::string& name : image_.sections_with(prefix)) {
        if (const auto variable = image_.find(name.substr(prefix.size()))) places(name, Kind::kConstant, bytes, *variable);
      }
    }
  }

  void own_sites() {
    for_table("__start___jump_table", "__stop___jump_table", 16, [&](const VendorImage::Section& table, std::size_t i) {
      const LinkedAt at = place(table, i);
      const auto first = image_.get<std::uint8_t>(at).value_or(0), second = image_.get<std::uint8_t>(at + 1).value_or(0);
      const bool small = first == 0xeb || (first == 0x66 && second == 0x90);
      add({at, small ? 2u : 5u, Kind::kOwn, Site::Kind::kJump, place(table, i + 4), 0});
    });
    for_table("__start_static_call_sites", "__stop_static_call_sites", 8, [&](const VendorImage::Section& table, std::size_t i) {
      const LinkedAt at = place(table, i);
      const bool conditional = image_.get<std::uint8_t>(at) == std::uint8_t{0x0f};
      add({at, conditional ? 6u : 5u, Kind::kOwn, Site::Kind::kStaticCall, {place(table, i + 4).value & ~std::uint64_t{3}}, 0});
    });
    for_table("__start_mcount_loc", "__stop_mcount_loc", 8, [&](const VendorImage::Section& table, std::size_t i) {
      add({{take<std::uint64_t>(table, i)}, 5, Kind::kOwn, Site::Kind::kFtrace, {}, 0});
    });
    for (const char* name : {"ftrace_call", "ftrace_regs_call", "ftrace_graph_call"}) {
      if (const auto at = image_.find(name)) add({*at, 5, Kind::kOwn, Site::Kind::kFtraceEntry, {}, 0});
    }
    trampolines();
  }

  std::vector<VendorSite> finish() && {
    std::ranges::stable_sort(sites_, {}, &VendorSite::at);
    return std::move(sites_);
  }

 private:
  template <typename T>
  static T take(const VendorImage::Section& table, std::size_t i) {
    T value{};
    if (i + sizeof value <= table.bytes.size()) std::memcpy(&value, table.bytes.data() + i, sizeof value);
    return value;
  }
  static LinkedAt place(const VendorImage::Section& table, std::size_t i) { return relative(table.at + i, take<std::int32_t>(table, i)); }

  template <typename Each>
  void for_table(const char* start, const char* stop, std::size_t stride, const Each& each) {
    const auto from = image_.find(start), to = image_.find(stop);
    if (!from || !to || *to < *from) return;
    const VendorImage::Section table{*from, image_.bytes(*from, *to - *from)};
    for (std::size_t i = 0; i + stride <= table.bytes.size(); i += stride) each(table, i);
  }

  // What a call by name goes through: __SCT__x jumps to what __SCK__x holds.
  void trampolines() {
    constexpr std::string_view kTrampoline = "__SCT__";
    const auto& symbols = image_.symbols();
    for (std::size_t i = 0; i < symbols.size(); ++i) {
      const auto symbol = symbols.at(i);
      if (!symbol.name.starts_with(kTrampoline)) continue;
      const auto key = image_.find("__SCK__" + std::string(symbol.name.substr(kTrampoline.size())));
      if (key) add({{symbol.at.value}, 5, Kind::kOwn, Site::Kind::kStaticCall, *key, 0});
    }
  }

  bool add_alternatives(const VendorImage::Section& table, std::size_t stride, std::size_t lengths) {
    std::vector<VendorSite> found;
    for (std::size_t i = 0; i + stride <= table.bytes.size(); i += stride) {
      const LinkedAt at = place(table, i), code = place(table, i + 4);
      const auto bytes = take<std::uint8_t>(table, i + lengths), other = take<std::uint8_t>(table, i + lengths + 1);
      if (bytes == 0 || other > bytes || image_.bytes(at, bytes).empty()) return false;
      if (other != 0 && image_.bytes(code, other).empty()) return false;
      found.push_back({at, bytes, Kind::kAlternative, {}, code, other});
      // It may be there to make a direct call of an indirect one.
      if (image_.get<std::uint8_t>(at) == std::uint8_t{0xff}) found.push_back({at, bytes, Kind::kIndirect, {}, {}, 0});
    }
    for (const VendorSite& site : found) add(site);
    return true;
  }

  // What is gone after the start is not looked at.
  void add(const VendorSite& site) {
    if (site.bytes == 0 || site.bytes > kSiteMax || sites_.size() >= kSitesMax) return;
    for (const auto* code : {&text_, &replacements_}) {
      if (code->has(site.at) && code->bytes.size() - (site.at - code->at) >= site.bytes) sites_.push_back(site);
    }
  }

  const VendorImage& image_;
  VendorImage::Section text_, replacements_;
  std::vector<VendorSite> sites_;
};

}  // namespace

std::vector<VendorSite> vendor_sites(const VendorImage& image) {
  Collector all(image);
  all.places(".return_sites", Kind::kReturn, 5);
  all.places(".smp_locks", Kind::kLock, 1);
  all.places(".ibt_endbr_seal", Kind::kSeal, 4);
  all.retpolines();
  all.indirect_calls();
  all.alternatives();
  all.constants();
  all.own_sites();
  return std::move(all).finish();
}

}  // namespace mhv::integrity
