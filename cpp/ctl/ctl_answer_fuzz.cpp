// A layer's answer: refused, or shown as lines without a control character, whatever it holds.
#include "base/error.h"
#include "ctl/answer.h"

namespace {

bool plain(const std::string& text) {
  for (const char c : text) {
    if ((static_cast<unsigned char>(c) < 0x20 && c != '\n') || c == 0x7f) return false;
  }
  return text.ends_with('\n');
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mhv::ctl;
  try {
    const Answer answer = parse_answer({reinterpret_cast<const char*>(data), size});
    if (!plain(answer_text(answer, 0)) || !plain(answer_text(answer, 80))) __builtin_trap();
    if (!plain(answer_json(answer) + "\n")) __builtin_trap();
  } catch (const mhv::Error&) {
  }
  return 0;
}
