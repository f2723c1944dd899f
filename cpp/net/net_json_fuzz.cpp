// The first byte says in which pieces the rest arrives; how it is cut must not matter.
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "net/ovsdb.h"

namespace {

// The objects before the first error; "!" for that.
std::vector<std::string> objects_of(std::string_view text, std::size_t piece) {
  std::vector<std::string> found;
  mhv::net::JsonStream stream;
  try {
    for (; !text.empty(); text.remove_prefix(std::min(piece, text.size()))) {
      stream.feed(text.substr(0, piece));
      while (auto object = stream.next()) {
        if (object->find('{') == std::string::npos || object->back() != '}') std::abort();
        found.push_back(*object);
      }
    }
  } catch (const mhv::Error&) {
    found.emplace_back("!");
  }
  return found;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (objects_of(text, data[0] + std::size_t{1}) != objects_of(text, text.size())) std::abort();
  return 0;
}
