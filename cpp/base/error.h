// Errors of the engine: one exception type that says what failed, and what to do next.
#pragma once

#include <cerrno>
#include <stdexcept>
#include <string>
#include <utility>

namespace mhv {

// Values are part of the wire protocol (protocol/mhv.proto, Error.Code): append only.
enum class Code {
  kInternal = 0,
  kInvalid = 1,      // the request itself is wrong
  kNotFound = 2,     // no such guest, checkpoint or file
  kExists = 3,       // already attached, file already there
  kUnsupported = 4,  // this guest, host or kernel cannot do it
  kBusy = 5,         // another operation holds the guest
  kGone = 6,         // the guest ended in the middle
  kNoSpace = 7,      // disk full; nothing was lost
  kCorrupt = 8,      // a checksum or structure is wrong
  kVersion = 9,      // written by another version of the format or protocol
  kPermission = 10,
  kUnavailable = 11,  // a process that is needed does not answer
};

const char* code_name(Code code) noexcept;

// `what()` says what failed; `hint()` says what the reader can do about it (may be empty).
class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message, std::string hint = {}) : std::runtime_error(message), code_(code), hint_(std::move(hint)) {}

  Code code() const noexcept { return code_; }
  const std::string& hint() const noexcept { return hint_; }

 private:
  Code code_;
  std::string hint_;
};

// Throws an Error made of `what` and the text of `error`; ENOSPC, ENOENT, EEXIST, EPERM, EACCES, ESRCH and
// EBUSY get their own code.
[[noreturn]] void throw_errno(const std::string& what, int error = errno);

}  // namespace mhv
