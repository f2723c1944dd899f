#include "integrity/digest.h"

#include <openssl/rand.h>

#include "base/error.h"

namespace mhv::integrity {
namespace {

constexpr unsigned char kNonce[12]{};

}  // namespace

Digester::Digester() : context_(EVP_CIPHER_CTX_new(), &EVP_CIPHER_CTX_free) {
  std::array<unsigned char, 16> key;
  if (context_ == nullptr || RAND_bytes(key.data(), static_cast<int>(key.size())) != 1 ||
      EVP_EncryptInit_ex2(context_.get(), EVP_aes_128_gcm(), key.data(), kNonce, nullptr) != 1) {
    throw Error(Code::kInternal, "OpenSSL has no AES-128-GCM");
  }
}

Digest Digester::operator()(std::span<const std::byte> bytes) {
  Digest out;
  int n = 0;
  if (EVP_EncryptInit_ex2(context_.get(), nullptr, nullptr, kNonce, nullptr) != 1 ||
      EVP_EncryptUpdate(context_.get(), nullptr, &n, reinterpret_cast<const unsigned char*>(bytes.data()),
                        static_cast<int>(bytes.size())) != 1 ||
      EVP_EncryptFinal_ex(context_.get(), nullptr, &n) != 1 ||
      EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_AEAD_GET_TAG, static_cast<int>(out.size()), out.data()) != 1) {
    throw Error(Code::kInternal, "OpenSSL cannot take a digest");
  }
  return out;
}

}  // namespace mhv::integrity
