// OpenSSL contexts of one cipher under one key. The key schedule is made once for each; a message then only resets the nonce, and
// takes nothing from the heap.
#pragma once

#include <openssl/evp.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "keys/key.h"

namespace mhv::store {

using CipherContext = std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)>;

// Thread-safe: a context for each thread that has taken one at the same time. One that is not given back, because something went
// wrong with it, is no loss.
class CipherPool {
 public:
  // `key`: of the length that the cipher wants, at most 32 bytes. `cipher`: a literal.
  CipherPool(const char* cipher, std::span<const std::uint8_t> key);
  CipherContext take() const;
  void give_back(CipherContext context) const;

 private:
  const char* const cipher_;
  keys::Key key_;
  mutable std::mutex mutex_;
  mutable std::vector<CipherContext> idle_;
};

}  // namespace mhv::store
