// A keyed digest of memory: AES-128-GMAC under a key of this process and one nonce for all, as store/page_namer.h says why: for contents
// chosen without knowing the key, two digests are equal with a probability below 2^-119. The guest sees neither.
#pragma once

#include <openssl/evp.h>

#include <array>
#include <cstddef>
#include <memory>
#include <span>

namespace mhv::integrity {

using Digest = std::array<std::byte, 16>;

// Not thread-safe.
class Digester {
 public:
  Digester();
  Digest operator()(std::span<const std::byte> bytes);

 private:
  std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)> context_;
};

}  // namespace mhv::integrity
