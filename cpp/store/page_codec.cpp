#include "store/page_codec.h"

#include <lz4.h>
#include <openssl/evp.h>

#include <cstring>
#include <memory>

#include "base/error.h"

namespace mhv::store {
namespace {

// Fetching an algorithm and making a context cost more than hashing a page: both are made once a thread.
struct Sha256 {
  std::unique_ptr<EVP_MD, decltype(&EVP_MD_free)> algorithm{EVP_MD_fetch(nullptr, "SHA256", nullptr), &EVP_MD_free};
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context{EVP_MD_CTX_new(), &EVP_MD_CTX_free};
};

}  // namespace

bool PageKey::is_zero_page() const { return bytes == std::array<std::uint8_t, 16>{}; }

bool is_zero(std::span<const std::byte, kPageSize> page) {
  // A page of zeros is one that begins with zeros and equals itself shifted by that many.
  static constexpr std::byte kZeros[64]{};
  return std::memcmp(page.data(), kZeros, sizeof kZeros) == 0 &&
         std::memcmp(page.data(), page.data() + sizeof kZeros, kPageSize - sizeof kZeros) == 0;
}

PageKey key_of(std::span<const std::byte, kPageSize> page) {
  PageKey key;
  if (is_zero(page)) return key;
  thread_local Sha256 sha;
  unsigned char digest[EVP_MAX_MD_SIZE];
  if (EVP_DigestInit_ex(sha.context.get(), sha.algorithm.get(), nullptr) != 1 ||
      EVP_DigestUpdate(sha.context.get(), page.data(), page.size()) != 1 || EVP_DigestFinal_ex(sha.context.get(), digest, nullptr) != 1) {
    throw Error(Code::kInternal, "SHA-256 is not available from OpenSSL");
  }
  std::memcpy(key.bytes.data(), digest, key.bytes.size());
  return key;
}

// LZ4, because it is on the way of every epoch: on pages of code 6.8 us and 51 % are left, zstd's level 1 takes 18.7 us for 38 %;
// on pages that do not compress 1.3 us beside 4.1.
EncodedPage encode_page(std::span<const std::byte, kPageSize> page, std::span<std::byte, kPageSize> room) {
  const int n = LZ4_compress_default(reinterpret_cast<const char*>(page.data()), reinterpret_cast<char*>(room.data()),
                                     static_cast<int>(kPageSize), static_cast<int>(kPageSize) - 1);
  if (n <= 0) return {Encoding::kRaw, page};  // did not fit in less than a page
  return {Encoding::kLz4, room.first(static_cast<std::size_t>(n))};
}

bool decode_page(Encoding encoding, std::span<const std::byte> payload, std::span<std::byte, kPageSize> out) {
  if (encoding == Encoding::kRaw) {
    if (payload.size() != kPageSize) return false;
    std::memcpy(out.data(), payload.data(), kPageSize);
    return true;
  }
  return LZ4_decompress_safe(reinterpret_cast<const char*>(payload.data()), reinterpret_cast<char*>(out.data()),
                             static_cast<int>(payload.size()), static_cast<int>(kPageSize)) == static_cast<int>(kPageSize);
}

}  // namespace mhv::store
