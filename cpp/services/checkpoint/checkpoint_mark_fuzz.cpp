// Any bytes as the mark of a restore: refused, or a checkpoint's id that is safe to print and to look up.
#include <cstdlib>

#include "base/error.h"
#include "checkpoint/restore_mark.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto found = mhv::checkpoint::parse_restore_mark({reinterpret_cast<const char*>(data), size});
    if (!found) return 0;
    if (found->checkpoint.empty() || found->checkpoint.find_first_not_of("0123456789abcdefghijklmnopqrstuvwxyz-") != std::string::npos)
      std::abort();
  } catch (const mhv::Error&) {
  }
  return 0;
}
