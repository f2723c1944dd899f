#include "keys/key.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include <cstring>
#include <memory>
#include <string>

#include "base/error.h"

namespace mhv::keys {

Key::Key(std::string_view text) {
  if (text.size() != bytes.size()) throw Error(Code::kInvalid, "a key has 32 bytes, not " + std::to_string(text.size()));
  std::memcpy(bytes.data(), text.data(), bytes.size());
}

Key::~Key() { OPENSSL_cleanse(bytes.data(), bytes.size()); }

Key derive(const Key& from, std::span<const std::uint8_t> salt, std::string_view info) {
  static const std::unique_ptr<EVP_KDF, decltype(&EVP_KDF_free)> hkdf(EVP_KDF_fetch(nullptr, "HKDF", nullptr), &EVP_KDF_free);
  const std::unique_ptr<EVP_KDF_CTX, decltype(&EVP_KDF_CTX_free)> context(EVP_KDF_CTX_new(hkdf.get()), &EVP_KDF_CTX_free);
  // The library takes its inputs by pointers to what it does not change.
  const auto octets = [](const char* name, const void* data, std::size_t bytes) {
    return OSSL_PARAM_construct_octet_string(name, const_cast<void*>(data), bytes);
  };
  char digest[] = "SHA256";
  static constexpr std::uint8_t kNoSalt[32]{};  // what the standard takes in the place of none
  if (salt.empty()) salt = kNoSalt;
  const std::array<OSSL_PARAM, 5> params{
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
      octets(OSSL_KDF_PARAM_KEY, from.bytes.data(), from.bytes.size()),
      octets(OSSL_KDF_PARAM_SALT, salt.data(), salt.size()),
      octets(OSSL_KDF_PARAM_INFO, info.data(), info.size()),
      OSSL_PARAM_construct_end(),
  };
  Key out;
  if (!context || EVP_KDF_derive(context.get(), out.bytes.data(), out.bytes.size(), params.data()) != 1) {
    throw Error(Code::kInternal, "HKDF-SHA256 is not available from OpenSSL");
  }
  return out;
}

void wipe(std::span<char> text) { OPENSSL_cleanse(text.data(), text.size()); }

}  // namespace mhv::keys
