// Texts of others, which go into messages that take UTF-8 alone.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

namespace mhv {

// The beginning of a UTF-8 text: at most so many bytes, of whole characters.
inline std::string beginning(std::string_view text, std::size_t most) {
  std::size_t end = std::min(text.size(), most);
  while (end > 0 && end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return std::string(text.substr(0, end));
}

}  // namespace mhv
