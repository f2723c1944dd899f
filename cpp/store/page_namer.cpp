#include "store/page_namer.h"

#include <cstring>

#include "base/error.h"

namespace mhv::store {

bool is_zero(std::span<const std::byte, kPageSize> page) {
  // A page of zeros is one that begins with zeros and equals itself shifted by that many.
  static constexpr std::byte kZeros[64]{};
  return std::memcmp(page.data(), kZeros, sizeof kZeros) == 0 &&
         std::memcmp(page.data(), page.data() + sizeof kZeros, kPageSize - sizeof kZeros) == 0;
}

PageNamer::PageNamer(const NameSecrets& secrets) : hash_("AES-128-GCM", secrets.hash) {
  if (secrets.cover) cover_.emplace("AES-256-ECB", secrets.cover->bytes);
}

PageKey PageNamer::operator()(std::span<const std::byte, kPageSize> page) const {
  PageKey key;
  if (is_zero(page)) return key;
  static constexpr unsigned char kNonce[12]{};
  CipherContext context = hash_.take();
  EVP_CIPHER_CTX* const evp = context.get();
  int n = 0;
  if (EVP_EncryptInit_ex2(evp, nullptr, nullptr, kNonce, nullptr) != 1 ||
      EVP_EncryptUpdate(evp, nullptr, &n, reinterpret_cast<const unsigned char*>(page.data()), static_cast<int>(kPageSize)) != 1 ||
      EVP_EncryptFinal_ex(evp, nullptr, &n) != 1 ||
      EVP_CIPHER_CTX_ctrl(evp, EVP_CTRL_AEAD_GET_TAG, static_cast<int>(key.bytes.size()), key.bytes.data()) != 1) {
    throw Error(Code::kInternal, "OpenSSL cannot name a page");
  }
  hash_.give_back(std::move(context));
  if (cover_) {  // one block
    context = cover_->take();
    if (EVP_EncryptUpdate(context.get(), key.bytes.data(), &n, key.bytes.data(), static_cast<int>(key.bytes.size())) != 1 || n != 16) {
      throw Error(Code::kInternal, "OpenSSL cannot name a page");
    }
    cover_->give_back(std::move(context));
  }
  if (key.is_zero_page()) key.bytes[0] = 1;  // that name is taken
  return key;
}

}  // namespace mhv::store
