// For tests: the code of the Error that a call throws.
#pragma once

#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"

namespace mhv {

inline Code code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "nothing was thrown";
  return Code::kInternal;
}

}  // namespace mhv
