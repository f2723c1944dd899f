// Ed25519 (RFC 8032) over a package's listing, by OpenSSL.
#pragma once

#include <openssl/evp.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "package/listing.h"

namespace mhv::package {

inline constexpr std::size_t kSignatureBytes = 64;
using Signature = std::array<std::uint8_t, kSignatureBytes>;

class PublicKey {
 public:
  // Throws kInvalid: no Ed25519 key in PEM; kNotFound.
  static PublicKey read(const std::string& file);
  bool verifies(std::string_view text, const Signature& signature) const;
  // SHA-256 of its SubjectPublicKeyInfo: `openssl pkey -pubin -in KEY -outform DER | sha256sum`
  std::string fingerprint() const;

 private:
  std::shared_ptr<EVP_PKEY> key_;
};

// `file`: an Ed25519 private key (PEM, no passphrase). Throws kInvalid.
Signature sign(const std::string& file, std::string_view text);

}  // namespace mhv::package
