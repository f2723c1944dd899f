// The first byte says in which pieces the rest arrives; how it is cut must not matter.
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "guest/qmp_wire.h"

namespace {

std::vector<std::string> lines_of(std::string_view text, std::size_t piece) {
  mhv::guest::LineReader reader;
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size(); at += piece) {
    reader.feed(text.substr(at, piece));
    while (auto line = reader.next()) lines.push_back(std::move(*line));
  }
  return lines;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto lines = lines_of(text, 1u + data[0]);
  if (lines != lines_of(text, text.size() + 1)) std::abort();
  for (const auto& line : lines) {
    try {
      mhv::guest::parse_qmp_message(line);
    } catch (const mhv::Error&) {
    }
  }
  return 0;
}
