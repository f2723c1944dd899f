#include "integrity/vendor_match.h"

#include <algorithm>

namespace mhv::integrity {
namespace {

using namespace std::string_view_literals;

using Bytes = VendorMatch::Bytes;

constexpr std::uint8_t kCall = 0xe8, kJump = 0xe9, kShortJump = 0xeb, kInt3 = 0xcc, kReturn = 0xc3, kSegment = 0x2e;
constexpr std::uint8_t kLock = 0xf0, kNoLock = 0x3e;
constexpr std::array<const char*, 16> kRegisters = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                                    "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

std::uint8_t byte(Bytes bytes, std::size_t i) { return i < bytes.size() ? std::to_integer<std::uint8_t>(bytes[i]) : std::uint8_t{0}; }

std::uint32_t word(Bytes bytes, std::size_t i) {
  std::uint32_t value = 0;
  if (i + sizeof value <= bytes.size()) std::memcpy(&value, bytes.data() + i, sizeof value);
  return value;
}

std::uint64_t extended(std::uint32_t value) { return static_cast<std::uint64_t>(std::int64_t{static_cast<std::int32_t>(value)}); }

bool begins(Bytes bytes, std::string_view with) {
  return bytes.size() >= with.size() && std::memcmp(bytes.data(), with.data(), with.size()) == 0;
}

// How long a NOP that begins `bytes` is, of those that a kernel writes; 0: none does.
std::size_t nop_bytes(Bytes bytes) {
  std::size_t prefixes = 0;
  while (byte(bytes, prefixes) == 0x66 || byte(bytes, prefixes) == kSegment) ++prefixes;
  const Bytes rest = bytes.subspan(std::min(prefixes, bytes.size()));
  constexpr std::string_view kNops[] = {"\x90"sv,
                                        "\x0f\x1f\x00"sv,
                                        "\x0f\x1f\x40\x00"sv,
                                        "\x0f\x1f\x44\x00\x00"sv,
                                        "\x0f\x1f\x80\x00\x00\x00\x00"sv,
                                        "\x0f\x1f\x84\x00\x00\x00\x00\x00"sv};
  for (const std::string_view nop : kNops) {
    if (begins(rest, nop)) return prefixes + nop.size();
  }
  return 0;
}

bool is_nops(Bytes bytes) {
  while (!bytes.empty()) {
    const std::size_t count = nop_bytes(bytes);
    if (count == 0) return false;
    bytes = bytes.subspan(count);
  }
  return true;
}

bool is_int3s(Bytes bytes) {
  return std::ranges::all_of(bytes, [](std::byte one) { return one == std::byte{kInt3}; });
}

// What fills a place up: NOPs, or a jump over them or over int3.
bool is_filling(Bytes bytes) {
  const auto is_rest = [](Bytes rest) { return is_nops(rest) || is_int3s(rest); };
  if (is_nops(bytes)) return true;
  if (byte(bytes, 0) == kShortJump && bytes.size() >= 2) return byte(bytes, 1) == bytes.size() - 2 && is_rest(bytes.subspan(2));
  return byte(bytes, 0) == kJump && bytes.size() >= 5 && word(bytes, 1) == bytes.size() - 5 && is_rest(bytes.subspan(5));
}

// What a kernel of 5.10 has in place of a call through pv_ops: cli, sti, pushf and pop, push and popf, cr2, cr3, iretq, wbinvd, swapgs
// and sysretq, a spin lock's release; later only a function's that gives back what it got, or 0.
bool is_inlined(Bytes now) {
  constexpr std::string_view kCodes[] = {"\xfa"sv,
                                         "\xfb"sv,
                                         "\x9c\x58"sv,
                                         "\x57\x9d"sv,
                                         "\x0f\x20\xd0"sv,
                                         "\x0f\x20\xd8"sv,
                                         "\x0f\x22\xdf"sv,
                                         "\x48\xcf"sv,
                                         "\x0f\x09"sv,
                                         "\x0f\x01\xf8"sv,
                                         "\xc6\x07\x00"sv,
                                         "\x31\xc0"sv,
                                         "\x0f\x01\xf8\x48\x0f\x07"sv,
                                         "\x48\x89\xf8"sv};
  return std::ranges::any_of(kCodes, [&](std::string_view code) { return begins(now, code) && is_filling(now.subspan(code.size())); });
}

}  // namespace

// Over one part, from place to place that can be reached: each byte is as the vendor has it, or a site begins and has what it can have.
class VendorMatch::Walk {
 public:
  Walk(const VendorMatch& match, Reader& reader, SiteJudge& judge) : match_(match), reader_(reader), judge_(judge) {}

  bool is_right(const Part& part) {
    std::vector<bool> reached(part.code.size() + 1);
    reached[0] = true;
    const auto& sites = match_.sites_;
    auto site = std::ranges::lower_bound(sites, part.at, {}, &VendorSite::at);
    bool padded = part.is_copy;
    for (std::size_t i = 0; i < part.code.size(); ++i) {
      for (; site != sites.end() && site->at <= part.at + i; ++site) {
        if (site->at - part.at != i || site->bytes > part.code.size() - i) continue;
        padded |= site->kind == VendorSite::Kind::kAlternative;
        if (reached[i] && is_site_right(*site, part, i)) reached[i + site->bytes] = true;
      }
      if (!reached[i]) continue;
      if (part.code[i] == part.now[i]) reached[i + 1] = true;
      if (padded) step_over_nops(part, i, reached);
      if (part.is_copy) step_over_distances(part, i, reached);
    }
    return reached[part.code.size()];
  }

 private:
  // The kernel makes few long NOPs of many short ones.
  static void step_over_nops(const Part& part, std::size_t i, std::vector<bool>& reached) {
    for (std::size_t end = i; end < part.code.size();) {
      const std::size_t count = nop_bytes(part.code.subspan(end));
      if (count == 0) break;
      end += count;
      if (is_filling(part.now.subspan(i, end - i))) reached[end] = true;
    }
  }

  // What is told as a distance is another one for a copy.
  void step_over_distances(const Part& part, std::size_t i, std::vector<bool>& reached) const {
    const std::uint64_t moved = match_.in_guest(part.at) - part.placed;
    if (i + 4 <= part.code.size() && word(part.now, i) == static_cast<std::uint32_t>(word(part.code, i) + moved)) reached[i + 4] = true;
    if (i + 5 > part.code.size() || byte(part.code, i) != kJump || byte(part.now, i) != kShortJump) return;
    const auto small = static_cast<std::uint64_t>(std::int64_t{static_cast<std::int8_t>(byte(part.now, i + 1))});
    const bool same = small + 2 == extended(static_cast<std::uint32_t>(word(part.code, i + 1) + moved)) + 5;
    const Bytes rest = part.now.subspan(i + 2, 3);
    if (same && (is_nops(rest) || is_int3s(rest))) reached[i + 5] = true;
  }

  bool is_site_right(const VendorSite& site, const Part& part, std::size_t i) {
    const Part own{site.at, part.placed + i, part.code.subspan(i, site.bytes), part.now.subspan(i, site.bytes), part.is_copy};
    switch (site.kind) {
      case VendorSite::Kind::kReturn: return is_return(own);
      case VendorSite::Kind::kRetpoline: return is_retpoline(own);
      case VendorSite::Kind::kLock: return byte(own.code, 0) == kLock && byte(own.now, 0) == kNoLock;
      case VendorSite::Kind::kSeal: return begins(own.now, "\x66\x0f\x1f\x00"sv);
      case VendorSite::Kind::kIndirect: return is_direct(own) || is_inlined(own.now);
      case VendorSite::Kind::kAlternative: return !part.is_copy && is_alternative(site, own);
      case VendorSite::Kind::kConstant: return is_constant(site, own);
      case VendorSite::Kind::kOwn: return !part.is_copy && is_own(site);
    }
    return false;
  }

  GuestVirt destination(const Part& part, std::size_t opcode_bytes) const {
    return part.placed + opcode_bytes + 4 + extended(word(part.now, opcode_bytes));
  }

  bool is_return(const Part& part) const {
    if (byte(part.now, 0) == kReturn) return is_int3s(part.now.subspan(1));
    const LinkedAt to = match_.linked(destination(part, 1));
    return byte(part.now, 0) == kJump && std::ranges::find(match_.return_thunks_, to) != match_.return_thunks_.end();
  }

  // Through the thunk of which register the vendor's code goes.
  std::optional<unsigned> register_of(const Part& part, std::size_t opcode_bytes) const {
    const LinkedAt to = part.at + (opcode_bytes + 4 + extended(word(part.code, opcode_bytes)));
    const auto found = std::ranges::find(match_.thunks_, to);
    if (found == match_.thunks_.end() || to.value == 0) return std::nullopt;
    return static_cast<unsigned>(found - match_.thunks_.begin());
  }

  // [lfence,] then call or jmp by the register.
  static bool is_by_register(Bytes now, unsigned number, bool jump) {
    if (begins(now, "\x0f\xae\xe8"sv)) now = now.subspan(3);
    if (number >= 8) {
      if (byte(now, 0) != 0x41) return false;
      now = now.subspan(1);
    }
    const auto how = static_cast<std::uint8_t>((jump ? 0xe0 : 0xd0) + number % 8);
    return byte(now, 0) == 0xff && byte(now, 1) == how && (is_filling(now.subspan(2)) || (jump && is_int3s(now.subspan(2))));
  }

  // One that the kernel makes for processors with the fault ITS: a jump by the register, in the upper half of a line.
  bool is_made_thunk(GuestVirt at, unsigned number) {
    constexpr std::uint64_t kLine = 64;
    std::array<std::byte, 3> code{};
    const std::size_t count = number >= 8 ? 3 : 2;
    return at.value % kLine >= kLine / 2 && reader_.read(at, std::span(code).first(count)) &&
           is_by_register(std::span(code).first(count), number, true);
  }

  bool is_retpoline(const Part& part) {
    const std::uint8_t first = byte(part.code, 0);
    const std::size_t opcode_bytes = first == kCall || first == kJump ? 1 : 2;
    const auto number = register_of(part, opcode_bytes);
    if (!number) return false;
    const std::uint8_t code = first == kSegment ? byte(part.code, 1) : first;
    const bool conditional = first == 0x0f;
    Bytes now = part.now;
    if (conditional) {  // around the jump, by the opposite condition
      const auto opposite = static_cast<std::uint8_t>(0x70 | ((byte(part.code, 1) ^ 1) & 0xf));
      if (byte(now, 0) == opposite && byte(now, 1) == now.size() - 2) return is_by_register(now.subspan(2), *number, true);
      return false;
    }
    if (is_by_register(now, *number, code == kJump)) return true;
    for (std::size_t prefix = 0; prefix < opcode_bytes; ++prefix) {
      if (byte(now, prefix) == code && prefix + 5 <= now.size() && is_nops(now.subspan(prefix + 5))) {
        const GuestVirt to = part.placed + (prefix + 5) + extended(word(now, prefix + 1));
        if (match_.linked(to) == match_.thunks_[*number] || is_made_thunk(to, *number)) return true;
      }
      if (byte(now, prefix) != kSegment) break;
    }
    return false;
  }

  // call *disp32 or call *disp32(%rip), and so jmp.
  std::optional<GuestVirt> pointer_of(const Part& part) const {
    if (begins(part.code, "\xff\x14\x25"sv) || begins(part.code, "\xff\x24\x25"sv)) return GuestVirt{extended(word(part.code, 3))};
    if (begins(part.code, "\xff\x15"sv) || begins(part.code, "\xff\x25"sv)) {
      return match_.in_guest(part.at + (6 + extended(word(part.code, 2))));
    }
    return std::nullopt;
  }

  bool is_direct(const Part& part) {
    const auto pointer = pointer_of(part);
    if (!pointer || part.code.size() < 6) return false;
    const bool jump = (byte(part.code, 1) & 0x30) == 0x20;
    const LinkedAt at = match_.linked(*pointer);
    const LinkedAt now = match_.linked({reader_.word(*pointer)}), first{match_.image_.get<std::uint64_t>(at).value_or(0)};
    for (const LinkedAt function : {now, first}) {
      if (!match_.image_.is_function(function)) continue;
      for (const char* nothing : {"_paravirt_nop", "paravirt_nop", "nop_func"}) {
        if (match_.image_.find(nothing) == function && is_filling(part.now)) return true;
      }
      const bool leads = byte(part.now, 0) == (jump ? kJump : kCall) && match_.linked(destination(part, 1)) == function;
      if (leads && is_filling(part.now.subspan(5))) return true;
    }
    return false;
  }

  bool is_alternative(const VendorSite& site, const Part& part) {
    const auto& all = match_.replacements_;
    const std::uint64_t start = site.other - all.at;
    if (site.other_bytes != 0 && (start > all.bytes.size() || all.bytes.size() - start < site.other_bytes)) return false;
    std::vector<std::byte> code(part.code.size(), std::byte{0x90});
    if (site.other_bytes != 0) std::ranges::copy(all.bytes.subspan(start, site.other_bytes), code.begin());
    return is_right({site.other, part.placed, code, part.now, true});
  }

  bool is_constant(const VendorSite& site, const Part& part) {
    const std::uint64_t value = reader_.word(match_.in_guest(site.other));
    std::uint64_t now = 0;
    std::memcpy(&now, part.now.data(), std::min(part.now.size(), sizeof now));
    return now == (site.bytes == 1 ? value & 0xff : value);
  }

  bool is_own(const VendorSite& site) {
    const GuestVirt other = site.other.value == 0 ? GuestVirt{} : match_.in_guest(site.other);
    return judge_.judge({match_.in_guest(site.at), other, site.own, static_cast<std::uint8_t>(site.bytes)}) != SiteState::kWrong;
  }

  const VendorMatch& match_;
  Reader& reader_;
  SiteJudge& judge_;
};

VendorMatch::VendorMatch(const VendorImage& image, std::uint64_t moved)
    : image_(image),
      moved_(moved),
      text_bytes_(image.moved(image.section(".text"), moved)),
      replacement_bytes_(image.moved(image.section(".altinstr_replacement"), moved)),
      text_{image.section(".text").at, text_bytes_},
      replacements_{image.section(".altinstr_replacement").at, replacement_bytes_},
      sites_(vendor_sites(image)) {
  for (const char* name : kReturnThunks) {
    if (const auto at = image.find(name)) return_thunks_.push_back(*at);
  }
  for (std::size_t i = 0; i < kRegisters.size(); ++i) {
    thunks_[i] = image.find(std::string("__x86_indirect_thunk_") + kRegisters[i]).value_or(LinkedAt{});
  }
}

bool VendorMatch::is_right(Reader& reader, SiteJudge& judge, LinkedAt at, Bytes now) const {
  const std::uint64_t start = at - text_.at;
  if (start > text_.bytes.size() || now.size() > text_.bytes.size() - start) return false;
  const Bytes code = text_.bytes.subspan(start, now.size());
  if (std::ranges::equal(code, now)) return true;
  return Walk(*this, reader, judge).is_right({at, in_guest(at), code, now, false});
}

}  // namespace mhv::integrity
