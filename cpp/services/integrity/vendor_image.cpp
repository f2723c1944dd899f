#include "integrity/vendor_image.h"

#include <elf.h>

#include <algorithm>

#include "base/error.h"

namespace mhv::integrity {
namespace {

using Bytes = std::span<const std::byte>;

constexpr std::size_t kSectionsMax = 256;
constexpr std::size_t kNameMax = 64;
constexpr std::size_t kBannerMax = 512;
constexpr std::size_t kRelocationsMax = 1u << 22;

[[noreturn]] void fail(const char* what) {
  throw Error(Code::kCorrupt, std::string("that is no kernel of a vendor: ") + what, "make it again with mhv-vendor-kernel");
}

template <typename T>
T take(Bytes file, std::uint64_t at) {
  if (at > file.size() || file.size() - at < sizeof(T)) fail("it ends early");
  T value;
  std::memcpy(&value, file.data() + at, sizeof value);
  return value;
}

Bytes part(Bytes file, std::uint64_t at, std::uint64_t count) {
  if (at > file.size() || count > file.size() - at) fail("a section is not in the file");
  return file.subspan(at, count);
}

std::string text_at(Bytes bytes, std::uint64_t at, std::size_t most) {
  std::string out;
  while (at < bytes.size() && out.size() < most && bytes[at] != std::byte{0}) out.push_back(static_cast<char>(bytes[at++]));
  return out;
}

struct NamedSection {
  std::string name;
  VendorImage::Section section;
};

// Those with content and an address.
std::vector<NamedSection> read_sections(Bytes file) {
  const auto head = take<Elf64_Ehdr>(file, 0);
  const bool is_elf = std::memcmp(head.e_ident, ELFMAG, SELFMAG) == 0 && head.e_ident[EI_CLASS] == ELFCLASS64;
  if (!is_elf || head.e_machine != EM_X86_64 || head.e_shentsize != sizeof(Elf64_Shdr)) fail("it is no ELF file for x86-64");
  if (head.e_shnum > kSectionsMax || head.e_shstrndx >= head.e_shnum) fail("its sections have no names");
  const auto header = [&](std::size_t i) { return take<Elf64_Shdr>(file, head.e_shoff + i * sizeof(Elf64_Shdr)); };
  const auto names_header = header(head.e_shstrndx);
  const Bytes names = part(file, names_header.sh_offset, names_header.sh_size);
  std::vector<NamedSection> out;
  for (std::size_t i = 0; i < head.e_shnum; ++i) {
    const auto one = header(i);
    if (one.sh_type == SHT_NULL || one.sh_type == SHT_NOBITS || one.sh_addr == 0) continue;
    out.push_back({text_at(names, one.sh_name, kNameMax), {{one.sh_addr}, part(file, one.sh_offset, one.sh_size)}});
  }
  return out;
}

// From the end of the file on, up to the 0 before them; `end` goes there.
std::vector<std::uint32_t> read_relocations(Bytes file, std::uint64_t& end) {
  std::vector<std::uint32_t> out;
  while (out.size() < kRelocationsMax) {
    if (end < sizeof(std::uint32_t)) fail("its relocations have no end");
    end -= sizeof(std::uint32_t);
    const auto place = take<std::uint32_t>(file, end);
    if (place == 0) {
      std::ranges::sort(out);
      return out;
    }
    out.push_back(place);
  }
  fail("it has too many relocations");
}

// A kernel is in the highest 2 GiB.
LinkedAt linked_at(std::uint32_t place) {
  return {static_cast<std::uint64_t>(static_cast<std::int64_t>(static_cast<std::int32_t>(place)))};
}

template <typename T>
void relocate(std::vector<std::byte>& bytes, LinkedAt start, const std::vector<std::uint32_t>& sorted, std::uint64_t distance) {
  const auto first = std::ranges::lower_bound(sorted, start.value, {}, [](std::uint32_t place) { return linked_at(place).value; });
  for (auto it = first; it != sorted.end(); ++it) {
    const std::uint64_t place = linked_at(*it) - start;
    if (place >= bytes.size()) break;
    if (bytes.size() - place < sizeof(T)) continue;
    T value;
    std::memcpy(&value, bytes.data() + place, sizeof value);
    value = static_cast<T>(value + distance);
    std::memcpy(bytes.data() + place, &value, sizeof value);
  }
}

}  // namespace

VendorImage::VendorImage(Bytes file) {
  for (auto& [name, section] : read_sections(file)) sections_.emplace(name, section);
  std::uint64_t end = file.size();
  added_ = read_relocations(file, end);
  taken_ = read_relocations(file, end);
  wide_ = read_relocations(file, end);
  const Section rodata = section(".rodata");
  if (rodata.bytes.empty() || section(".text").bytes.empty()) fail("it has no text, or no data");
  symbols_ = introspection::Kallsyms::parse(rodata.bytes);
  if (!symbols_) fail("it has no kallsyms");
  const auto at = find("linux_banner");
  if (at && rodata.has(*at)) banner_ = text_at(rodata.bytes, *at - rodata.at, kBannerMax);
  if (banner_.ends_with('\n')) banner_.pop_back();
  if (banner_.empty()) fail("it has no banner");
}

bool VendorImage::may_have(Bytes file, std::string_view banner) {
  for (const auto& [name, section] : read_sections(file)) {
    if (name != ".rodata") continue;
    const std::string_view text(reinterpret_cast<const char*>(section.bytes.data()), section.bytes.size());
    return text.find(banner) != std::string_view::npos;
  }
  return false;
}

std::vector<std::string> VendorImage::sections_with(std::string_view prefix) const {
  std::vector<std::string> out;
  for (auto it = sections_.lower_bound(prefix); it != sections_.end() && it->first.starts_with(prefix); ++it) out.push_back(it->first);
  return out;
}

VendorImage::Section VendorImage::section(std::string_view name) const {
  const auto found = sections_.find(name);
  return found == sections_.end() ? Section{} : found->second;
}

Bytes VendorImage::bytes(LinkedAt at, std::uint64_t count) const {
  for (const auto& [name, section] : sections_) {
    if (section.has(at) && section.bytes.size() - (at - section.at) >= count) return section.bytes.subspan(at - section.at, count);
  }
  return {};
}

std::vector<std::byte> VendorImage::moved(const Section& section, std::uint64_t distance) const {
  std::vector<std::byte> out(section.bytes.begin(), section.bytes.end());
  relocate<std::uint32_t>(out, section.at, added_, distance);
  relocate<std::uint32_t>(out, section.at, taken_, 0 - distance);
  relocate<std::uint64_t>(out, section.at, wide_, distance);
  return out;
}

std::optional<LinkedAt> VendorImage::find(std::string_view symbol) const {
  const auto found = symbols_->find(symbol);
  return found ? std::optional(LinkedAt{found->value}) : std::nullopt;
}

bool VendorImage::is_function(LinkedAt at) const {
  const auto found = symbols_->before({at.value});
  return found && found->at.value == at.value && section(".text").has(at);
}

}  // namespace mhv::integrity
