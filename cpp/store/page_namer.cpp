#include "store/page_namer.h"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include <cstring>

#include "base/error.h"

namespace mhv::store {

bool PageKey::is_zero_page() const { return bytes == std::array<std::uint8_t, 16>{}; }

bool is_zero(std::span<const std::byte, kPageSize> page) {
  // A page of zeros is one that begins with zeros and equals itself shifted by that many.
  static constexpr std::byte kZeros[64]{};
  return std::memcmp(page.data(), kZeros, sizeof kZeros) == 0 &&
         std::memcmp(page.data(), page.data() + sizeof kZeros, kPageSize - sizeof kZeros) == 0;
}

// Its key schedule is made once; a page then only resets the nonce.
struct PageNamer::Context {
  std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)> evp{EVP_CIPHER_CTX_new(), &EVP_CIPHER_CTX_free};
};

// One context for each thread that is in operator() at the same time.
struct PageNamer::Pool {
  Secret secret;
  std::unique_ptr<EVP_CIPHER, decltype(&EVP_CIPHER_free)> cipher{EVP_CIPHER_fetch(nullptr, "AES-128-GCM", nullptr), &EVP_CIPHER_free};
  std::mutex mutex;
  std::vector<std::unique_ptr<Context>> idle;

  std::unique_ptr<Context> take() {
    {
      const std::lock_guard lock(mutex);
      if (!idle.empty()) {
        auto out = std::move(idle.back());
        idle.pop_back();
        return out;
      }
    }
    auto out = std::make_unique<Context>();
    if (!cipher || !out->evp || EVP_EncryptInit_ex2(out->evp.get(), cipher.get(), secret.data(), nullptr, nullptr) != 1) {
      throw Error(Code::kInternal, "AES-GCM is not available from OpenSSL");
    }
    return out;
  }
  void give_back(std::unique_ptr<Context> context) {
    const std::lock_guard lock(mutex);
    idle.push_back(std::move(context));
  }
};

PageNamer::PageNamer(const Secret& secret) : pool_(std::make_unique<Pool>()) { pool_->secret = secret; }
PageNamer::~PageNamer() = default;

PageKey PageNamer::operator()(std::span<const std::byte, kPageSize> page) const {
  PageKey key;
  if (is_zero(page)) return key;
  static constexpr unsigned char kNonce[12]{};
  std::unique_ptr<Context> context = pool_->take();
  EVP_CIPHER_CTX* const evp = context->evp.get();
  int n = 0;
  if (EVP_EncryptInit_ex2(evp, nullptr, nullptr, kNonce, nullptr) != 1 ||
      EVP_EncryptUpdate(evp, nullptr, &n, reinterpret_cast<const unsigned char*>(page.data()), static_cast<int>(kPageSize)) != 1 ||
      EVP_EncryptFinal_ex(evp, nullptr, &n) != 1 ||
      EVP_CIPHER_CTX_ctrl(evp, EVP_CTRL_AEAD_GET_TAG, static_cast<int>(key.bytes.size()), key.bytes.data()) != 1) {
    throw Error(Code::kInternal, "OpenSSL cannot name a page");
  }
  pool_->give_back(std::move(context));
  if (key.is_zero_page()) key.bytes[0] = 1;  // that name is taken
  return key;
}

Secret random_secret() {
  Secret out;
  if (RAND_bytes(out.data(), static_cast<int>(out.size())) != 1) throw Error(Code::kInternal, "no random numbers from OpenSSL");
  return out;
}

}  // namespace mhv::store
