#include "guest/stream.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "guest/bytes.h"

namespace mhv::guest {
namespace {

constexpr std::uint32_t kStreamMagic = 0x5145564d;  // "QEVM"
constexpr std::uint32_t kStreamVersion = 3;
constexpr std::size_t kStreamHeaderBytes = 8;

constexpr unsigned kEof = 0x00, kSectionStart = 0x01, kSectionEnd = 0x03, kSectionFull = 0x04, kConfiguration = 0x07, kFooter = 0x7e;

// Low bits of the be64 before each RAM record; the others are the page's offset in its block.
constexpr std::uint64_t kRamZero = 0x02, kRamMemSize = 0x04, kRamPage = 0x08, kRamEos = 0x10, kRamContinue = 0x20;
constexpr std::uint32_t kRamVersion = 4;
// Any number that no device section uses: QEMU counts sections up from 0.
constexpr std::uint32_t kRamSectionId = 0x4d485600;
constexpr std::size_t kFlushBytes = 1u << 20;

std::uint32_t big32(std::span<const std::byte> bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) value = value << 8 | std::to_integer<std::uint32_t>(bytes[at + i]);
  return value;
}

[[noreturn]] void bad_state(const std::string& why) { throw Error(Code::kCorrupt, "saved device state is not QEMU's: " + why); }

// u8 type, be32 section id, u8 length, name, be32 instance, be32 version: the head of a device's section.
void check_first_section(std::span<const std::byte> sections) {
  constexpr std::size_t kBeforeName = 6;
  if (sections.size() < kBeforeName || std::to_integer<unsigned>(sections[0]) != kSectionFull) bad_state("no device section");
  const std::size_t length = std::to_integer<std::size_t>(sections[kBeforeName - 1]);
  if (length == 0 || sections.size() < kBeforeName + length + 8) bad_state("a section ends early");
  for (const std::byte c : sections.subspan(kBeforeName, length)) {
    if (std::to_integer<unsigned>(c) <= 0x20 || std::to_integer<unsigned>(c) >= 0x7f) bad_state("a section's name is not text");
  }
}

// The device sections of `state`, its end mark included.
std::span<const std::byte> check_state(std::span<const std::byte> state) {
  if (state.size() > kDeviceStateMax) bad_state("too long");
  if (state.size() <= kStreamHeaderBytes) bad_state("too short");
  if (big32(state, 0) != kStreamMagic) bad_state("wrong magic");
  if (big32(state, 4) != kStreamVersion) bad_state("version " + std::to_string(big32(state, 4)));
  if (std::to_integer<unsigned>(state.back()) != kEof) bad_state("no end mark");
  const auto sections = state.subspan(kStreamHeaderBytes);
  check_first_section(sections);
  return sections;
}

void check_name(const std::string& name, const char* what) {
  const bool plain = std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < '\x7f'; });
  if (name.empty() || name.size() > 255 || !plain) throw Error(Code::kInvalid, std::string(what) + " is not a name of QEMU's");
}

void put_head(Bytes& out, const std::string& machine) {
  check_name(machine, "the machine type");
  out.big(kStreamMagic).big(kStreamVersion);
  out.u8(kConfiguration).big(static_cast<std::uint32_t>(machine.size())).text(machine);
}

void put_short_text(Bytes& out, const std::string& text) { out.u8(static_cast<unsigned>(text.size())).text(text); }

void put_footer(Bytes& out) { out.u8(kFooter).big(kRamSectionId); }

//   01 id "ram" instance 0, version 4;  total | MEM_SIZE;  per block: name, length;  EOS;  footer
void put_block_list(Bytes& out, std::span<const StreamBlock> blocks) {
  std::uint64_t total = 0;
  for (const auto& block : blocks) {
    check_name(block.name, "a RAM block's name");
    if (block.bytes == 0 || block.bytes % kPageSize != 0 || block.bytes > std::numeric_limits<std::int64_t>::max() - total) {
      throw Error(Code::kInvalid, "RAM block " + block.name + " is not made of whole pages");
    }
    total += block.bytes;
  }
  out.u8(kSectionStart).big(kRamSectionId);
  put_short_text(out, "ram");
  out.big(std::uint32_t{0}).big(kRamVersion).big(total | kRamMemSize);
  for (const auto& block : blocks) {
    put_short_text(out, block.name);
    out.big(block.bytes);
  }
  out.big(kRamEos);
  put_footer(out);
}

}  // namespace

std::vector<std::byte> device_stream(const std::string& machine, std::span<const std::byte> state) {
  Bytes out;
  put_head(out, machine);
  out.raw(check_state(state));
  return std::move(out).take();
}

void write_full_stream(const std::function<void(std::span<const std::byte>)>& write, const std::string& machine,
                       std::span<const StreamBlock> blocks,
                       const std::function<bool(std::size_t block, std::uint64_t index, std::span<std::byte, kPageSize> out)>& page,
                       std::span<const std::byte> state) {
  const auto sections = check_state(state);
  Bytes out;
  put_head(out, machine);
  put_block_list(out, blocks);
  // 03 id;  per page: offset | ZERO [| CONTINUE], [name], 00   or   offset | PAGE [| CONTINUE], [name], 4096 bytes
  out.u8(kSectionEnd).big(kRamSectionId);
  std::vector<std::byte> content(kPageSize);
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    for (std::uint64_t i = 0; i < blocks[b].bytes >> kPageShift; ++i) {
      const bool filled = page(b, i, std::span<std::byte, kPageSize>(content));
      out.big(i << kPageShift | (filled ? kRamPage : kRamZero) | (i > 0 ? kRamContinue : 0));
      if (i == 0) put_short_text(out, blocks[b].name);
      if (filled) {
        out.raw(content);
      } else {
        out.u8(0);
      }
      if (out.size() < kFlushBytes) continue;
      write(out.view());
      out.clear();
    }
  }
  out.big(kRamEos);
  put_footer(out);
  write(out.view());
  write(sections);
}

// Little endian:
//   offset 0   "LibvirtQemudSave"         28  u32 compression, 0: none
//          16  u32 version, 2             32  u32 offset of a cookie in the data, 0: there is none
//          20  u32 length of the data     36  14 x u32 unused
//          24  u32 was running, 1         92  data: the XML with its NUL; the stream follows at once
std::vector<std::byte> save_image_header(const std::string& domain_xml) {
  constexpr std::size_t kXmlMax = 8u << 20;
  if (domain_xml.empty() || domain_xml.size() > kXmlMax || domain_xml.find('\0') != std::string::npos) {
    throw Error(Code::kInvalid, "the domain's XML is empty, too long or holds a NUL");
  }
  Bytes out;
  out.text("LibvirtQemudSave").little(std::uint32_t{2}).little(static_cast<std::uint32_t>(domain_xml.size() + 1));
  out.little(std::uint32_t{1}).little(std::uint32_t{0}).little(std::uint32_t{0}).zeros_to(92);
  out.text(domain_xml).u8(0);
  return std::move(out).take();
}

}  // namespace mhv::guest
