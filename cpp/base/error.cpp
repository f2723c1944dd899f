#include "base/error.h"

#include <array>
#include <cstring>

namespace mhv {

const char* code_name(Code code) noexcept {
  static constexpr std::array<const char*, 12> kNames = {"internal", "invalid",  "not-found", "exists",  "unsupported", "busy",
                                                         "gone",     "no-space", "corrupt",   "version", "permission",  "unavailable"};
  const auto index = static_cast<std::size_t>(code);
  return index < kNames.size() ? kNames[index] : "internal";
}

void throw_errno(const std::string& what, int error) {
  Code code = Code::kInternal;
  std::string hint;
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      code = Code::kNoSpace;
      hint = "free some space, then try again: what was committed before is whole";
      break;
    case ENOENT: code = Code::kNotFound; break;
    case EEXIST: code = Code::kExists; break;
    case EPERM:
    case EACCES: code = Code::kPermission; break;
    case ESRCH: code = Code::kGone; break;
    case EBUSY: code = Code::kBusy; break;
    default: break;
  }
  throw Error(code, what + ": " + std::strerror(error), hint);
}

}  // namespace mhv
