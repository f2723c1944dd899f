// Random numbers for keys, salts and nonces.
#pragma once

#include <openssl/rand.h>

#include "base/error.h"

namespace mhv::store {

// `T`: an array of bytes.
template <typename T>
T random_bytes() {
  T out;
  if (RAND_bytes(out.data(), static_cast<int>(out.size())) != 1) throw Error(Code::kInternal, "no random numbers from OpenSSL");
  return out;
}

}  // namespace mhv::store
