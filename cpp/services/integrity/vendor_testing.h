// For the tests of this folder: what the vendor of the kernel made by hand (testing.h) built, linked elsewhere, with a site of each kind.
#pragma once

#include <elf.h>

#include <string>
#include <vector>

#include "integrity/testing.h"
#include "integrity/vendor_image.h"

namespace mhv::integrity::testing {

inline constexpr std::uint64_t kLinked = 0xffff'ffff'8080'0000, kMoved = kImage - kLinked;
inline constexpr std::uint64_t kReplacements = kLinked + 0x50'0000, kTables = kLinked + 0x51'0000;

// Functions with sites, and those that they lead to.
inline constexpr std::uint64_t kReturning = 100, kAddressed = 101, kLocking = 102, kThrough = 103, kIndirect = 104, kChosen = 105,
                               kSealed = 106, kConstant = 107, kReturnThunk = 200, kThunk = 201, kFentry = 202, kOps = 203, kFast = 204;
inline std::uint64_t linked(std::uint64_t number) { return kLinked + at::text + number * kFunctionBytes; }

class MadeVendor {
 public:
  // `start`: where its symbols say that the text begins.
  explicit MadeVendor(std::uint64_t start = linked(0)) {
    make_text();
    make_replacements();
    make_rodata(start);
    add_section(".text", kLinked, text_);
    add_section(".rodata", kLinked + at::rodata, rodata_);
    add_section(".altinstr_replacement", kReplacements, replacements_);
    add_places(".return_sites", {linked(kReturning)});
    add_places(".smp_locks", {linked(kLocking)});
    add_places(".retpoline_sites", {linked(kThrough)});
    add_places(".ibt_endbr_seal", {linked(kSealed)});
    add_places("runtime_ptr_table", {linked(kConstant)});
    add_section(".parainstructions", kTables + 0x1000, bytes_of(linked(kIndirect), std::uint64_t{0x0700}));
    std::vector<std::byte> alternative(12);
    const auto relative = [&](std::size_t place, std::uint64_t to) {
      const auto distance = static_cast<std::int32_t>(to - (kTables + 0x2000 + place));
      std::memcpy(alternative.data() + place, &distance, sizeof distance);
    };
    relative(0, linked(kChosen));
    relative(4, kReplacements);
    alternative[10] = std::byte{9};
    alternative[11] = std::byte{5};
    add_section(".altinstructions", kTables + 0x2000, alternative);
  }

  // As mhv-vendor-kernel writes it.
  std::vector<std::byte> file() const {
    std::vector<std::byte> out(sizeof(Elf64_Ehdr));
    std::vector<Elf64_Shdr> headers(1);
    std::string names(1, '\0');
    const auto add = [&](const std::string& name, std::uint64_t place, const std::vector<std::byte>& bytes, std::uint32_t type) {
      Elf64_Shdr header{};
      header.sh_name = static_cast<std::uint32_t>(names.size());
      header.sh_type = type;
      header.sh_addr = place;
      header.sh_offset = out.size();
      header.sh_size = bytes.size();
      names += name + '\0';
      headers.push_back(header);
      out.insert(out.end(), bytes.begin(), bytes.end());
    };
    for (const auto& one : sections_) add(one.name, one.at, one.bytes, SHT_PROGBITS);
    names += ".shstrtab";
    const std::vector<std::byte> text = bytes_of_text(names);
    add("", 0, text, SHT_STRTAB);
    Elf64_Ehdr head{};
    std::memcpy(head.e_ident, ELFMAG, SELFMAG);
    head.e_ident[EI_CLASS] = ELFCLASS64;
    head.e_machine = EM_X86_64;
    head.e_shoff = out.size();
    head.e_shentsize = sizeof(Elf64_Shdr);
    head.e_shnum = static_cast<std::uint16_t>(headers.size());
    head.e_shstrndx = static_cast<std::uint16_t>(headers.size() - 1);
    std::memcpy(out.data(), &head, sizeof head);
    const auto more = std::as_bytes(std::span(headers));
    out.insert(out.end(), more.begin(), more.end());
    // 64-bit addresses, distances, 32-bit addresses.
    const std::uint32_t relocations[] = {0, low(linked(kAddressed) + 16), low(linked(kOps)),         0, low(linked(kAddressed) + 8),
                                         0, low(linked(kAddressed)),      low(linked(kIndirect) + 3)};
    const auto last = std::as_bytes(std::span(relocations));
    out.insert(out.end(), last.begin(), last.end());
    return out;
  }

  // What the guest's kernel made of it, where it is.
  static void put_into(MadeKernel& made) {
    made.put_bytes(function(kReturning), {0xc3, 0xcc, 0xcc, 0xcc, 0xcc});
    made.put(function(kAddressed), low(function(kRead)));
    made.put(function(kAddressed) + 8, std::uint32_t{0x1000'0000} - low(kMoved));
    made.put(function(kAddressed) + 16, function(kRead));
    made.put_bytes(function(kLocking), {0x3e});
    made.put_bytes(function(kThrough), {0x41, 0xff, 0xd3, 0x66, 0x90});
    made.put_branch(function(kIndirect), 0xe8, function(kFast));
    made.put_bytes(function(kIndirect) + 5, {0x66, 0x90});
    made.put(function(kOps), function(kFast));
    made.put_branch(function(kChosen), 0xe8, function(kFast));
    made.put_bytes(function(kChosen) + 5, {0x0f, 0x1f, 0x40, 0x00});
    made.put_bytes(function(kSealed), {0x66, 0x0f, 0x1f, 0x00});
    made.put(kImage + at::data + 0x700, std::uint64_t{0x1234'5678'9abc});
    made.put(function(kConstant), std::uint64_t{0x1234'5678'9abc});
  }

 private:
  struct Part {
    std::string name;
    std::uint64_t at;
    std::vector<std::byte> bytes;
  };

  static std::uint32_t low(std::uint64_t value) { return static_cast<std::uint32_t>(value); }
  static std::vector<std::byte> bytes_of_text(const std::string& text) {
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
  }
  static std::vector<std::byte> bytes_of(std::uint64_t one, std::uint64_t two) {
    std::vector<std::byte> out(16);
    std::memcpy(out.data(), &one, sizeof one);
    std::memcpy(out.data() + 8, &two, sizeof two);
    return out;
  }
  template <typename T>
  static void put(std::vector<std::byte>& bytes, std::uint64_t place, const T& value) {
    std::memcpy(bytes.data() + place, &value, sizeof value);
  }
  void put_text(std::uint64_t number, std::initializer_list<std::uint8_t> bytes) {
    std::uint64_t place = number * kFunctionBytes;
    for (const std::uint8_t byte : bytes) put(text_, place++, byte);
  }
  void put_branch(std::uint64_t from, std::uint8_t opcode, std::uint64_t to) {
    put_text(from, {opcode});
    put(text_, from * kFunctionBytes + 1, static_cast<std::int32_t>((to - from) * kFunctionBytes - 5));
  }
  void add_section(const std::string& name, std::uint64_t place, std::vector<std::byte> bytes) {
    sections_.push_back({name, place, std::move(bytes)});
  }
  void add_places(const std::string& name, const std::vector<std::uint64_t>& places) {
    const std::uint64_t table = kTables + sections_.size() * 0x100;
    std::vector<std::byte> bytes(places.size() * 4);
    for (std::size_t i = 0; i < places.size(); ++i) put(bytes, i * 4, static_cast<std::int32_t>(places[i] - (table + i * 4)));
    add_section(name, table, std::move(bytes));
  }

  void make_text() {
    text_.resize(at::text_end);
    for (std::uint64_t i = 0; i < at::text_end; i += 8) put(text_, i, i * 0x9e37'79b9'7f4a'7c15);
    put_text(kLabelled, {0x0f, 0x1f, 0x44, 0, 0});
    put_branch(kTraced, 0xe8, kFentry);
    put_branch(kCalling, 0xe8, kCalled);
    put_branch(kReturning, 0xe9, kReturnThunk);
    put(text_, kAddressed * kFunctionBytes, low(linked(kRead)));
    put(text_, kAddressed * kFunctionBytes + 8, std::uint32_t{0x1000'0000});
    put(text_, kAddressed * kFunctionBytes + 16, linked(kRead));
    put_text(kLocking, {0xf0});
    put_branch(kThrough, 0xe8, kThunk);
    put_text(kIndirect, {0xff, 0x14, 0x25});
    put(text_, kIndirect * kFunctionBytes + 3, low(linked(kOps)));
    put_text(kChosen, {0x0f, 0xae, 0xf0, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90});
    put_text(kSealed, {0xf3, 0x0f, 0x1e, 0xfa});
    put(text_, kOps * kFunctionBytes, linked(kFast));
    put(text_, kConstant * kFunctionBytes, std::uint64_t{0x0123'4567'89ab'cdef});
  }

  void make_replacements() {
    replacements_.resize(16, std::byte{0x90});
    put(replacements_, 0, std::uint8_t{0xe8});
    put(replacements_, 1, static_cast<std::int32_t>(linked(kFast) - kReplacements - 5));
  }

  void make_rodata(std::uint64_t start) {
    rodata_.resize(0x1'0000);
    const std::string banner = "Linux version 6.1.0-test (gcc) #1 SMP\n";
    std::memcpy(rodata_.data() + (at::banner - at::rodata), banner.c_str(), banner.size() + 1);
    const auto put_relative = [&](std::uint64_t place, std::uint64_t to) {
      put(rodata_, place - at::rodata, static_cast<std::int32_t>(to - (kLinked + place)));
    };
    put_relative(at::jumps, linked(kLabelled));
    put_relative(at::jumps + 4, linked(kLabelled) + 32);
    put_relative(at::calls, linked(kCalling));
    put_relative(at::calls + 4, kLinked + at::key);
    put(rodata_, at::offsets - at::rodata, linked(kTraced));
    std::vector<TestSymbol> symbols;
    const auto name = [&](std::uint64_t place, const char* text) { symbols.push_back({kLinked + place, text}); };
    const auto name_function = [&](std::uint64_t number, const char* text) { symbols.push_back({linked(number), text}); };
    for (std::uint64_t i = 1; i < at::text_end / kFunctionBytes; ++i) symbols.push_back({linked(i), "tfill_" + std::to_string(i)});
    symbols.push_back({start, "T_stext"});
    name_function(kRecv, "Ttcp_recvmsg");
    name_function(kReturnThunk, "T__x86_return_thunk");
    name_function(kThunk, "T__x86_indirect_thunk_r11");
    name(at::banner, "Dlinux_banner");
    name(at::jumps, "D__start___jump_table");
    name(at::jumps + 16, "D__stop___jump_table");
    name(at::calls, "D__start_static_call_sites");
    name(at::calls + 8, "D__stop_static_call_sites");
    name(at::offsets, "D__start_mcount_loc");
    name(at::offsets + 8, "D__stop_mcount_loc");
    name(at::data + 0x700, "Dtable");
    std::ranges::stable_sort(symbols, {}, &TestSymbol::address);
    const auto table = introspection::testing::make_kallsyms(symbols, {true, true, false}, kLinked);
    std::ranges::copy(table, rodata_.begin() + 0x8000);
  }

  std::vector<std::byte> text_, replacements_, rodata_;
  std::vector<Part> sections_;
};

}  // namespace mhv::integrity::testing
