#include "ctl/escape.h"

#include <array>
#include <cstdint>
#include <cstdio>

namespace mhv::ctl {
namespace {

struct Character {
  std::uint32_t code = 0;
  std::size_t bytes = 1;
  bool valid = false;
};

// The shortest form of a code point that is no surrogate (RFC 3629), or one byte that is not valid.
Character decode(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x80) return {first, 1, true};
  const std::size_t bytes = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || bytes > text.size()) return {first};
  std::uint32_t code = first & (0xffu >> (bytes + 1));
  for (std::size_t i = 1; i < bytes; ++i) {
    const auto next = static_cast<unsigned char>(text[i]);
    if ((next & 0xc0) != 0x80) return {first};
    code = code << 6 | (next & 0x3fu);
  }
  static constexpr std::array<std::uint32_t, 5> kLeast{0, 0, 0x80, 0x800, 0x10000};
  if (code < kLeast[bytes] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return {first};
  return {code, bytes, true};
}

bool harmless(std::uint32_t code) {
  if (code < 0x20 || (code >= 0x7f && code < 0xa0)) return false;
  const bool turns =
      code == 0x61c || code == 0x200e || code == 0x200f || (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
  const bool ends_a_line = code == 0x2028 || code == 0x2029;
  return !turns && !ends_a_line;
}

bool continues(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

}  // namespace

std::string escaped(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const Character at = decode(text);
    if (at.code == '\\' && at.valid) {
      out += "\\\\";
    } else if (at.valid && harmless(at.code)) {
      out += text.substr(0, at.bytes);
    } else {
      std::array<char, 16> shown{};
      std::snprintf(shown.data(), shown.size(), at.code <= 0xff ? "\\x%02x" : "\\u{%x}", static_cast<unsigned>(at.code));
      out += shown.data();
    }
    text.remove_prefix(at.bytes);
  }
  return out;
}

std::size_t length(std::string_view text) {
  std::size_t count = 0;
  for (const char c : text) count += continues(c) ? 0 : 1;
  return count;
}

std::string shortened(std::string_view text, std::size_t characters) {
  if (characters == 0 || length(text) <= characters) return std::string(text);
  std::size_t end = 0;
  for (std::size_t count = 0; end < text.size(); ++end) {
    if (!continues(text[end]) && ++count == characters) break;
  }
  return std::string(text.substr(0, end)) + "…";
}

}  // namespace mhv::ctl
