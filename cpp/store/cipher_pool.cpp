#include "store/cipher_pool.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace mhv::store {

CipherPool::CipherPool(const char* cipher, std::span<const std::uint8_t> key) : cipher_(cipher) {
  std::ranges::copy(key, key_.bytes.begin());
}

CipherContext CipherPool::take() const {
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      CipherContext out = std::move(idle_.back());
      idle_.pop_back();
      return out;
    }
  }
  const std::unique_ptr<EVP_CIPHER, decltype(&EVP_CIPHER_free)> cipher(EVP_CIPHER_fetch(nullptr, cipher_, nullptr), &EVP_CIPHER_free);
  CipherContext out(EVP_CIPHER_CTX_new(), &EVP_CIPHER_CTX_free);
  if (!cipher || !out || EVP_EncryptInit_ex2(out.get(), cipher.get(), key_.bytes.data(), nullptr, nullptr) != 1) {
    throw Error(Code::kInternal, std::string(cipher_) + " is not available from OpenSSL");
  }
  return out;
}

void CipherPool::give_back(CipherContext context) const {
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(context));
}

}  // namespace mhv::store
