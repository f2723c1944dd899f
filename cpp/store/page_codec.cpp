#include "store/page_codec.h"

#include <openssl/evp.h>
#include <zstd.h>

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

struct ZstdContexts {
  std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> compress{ZSTD_createCCtx(), &ZSTD_freeCCtx};
  std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> decompress{ZSTD_createDCtx(), &ZSTD_freeDCtx};
};

ZstdContexts& zstd() {
  thread_local ZstdContexts contexts;
  return contexts;
}

constexpr int kZstdLevel = 1;

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

EncodedPage encode_page(std::span<const std::byte, kPageSize> page, std::span<std::byte, kPageSize> room) {
  const std::size_t n = ZSTD_compressCCtx(zstd().compress.get(), room.data(), room.size() - 1, page.data(), page.size(), kZstdLevel);
  if (ZSTD_isError(n)) return {Encoding::kRaw, page};  // did not fit in less than a page
  return {Encoding::kZstd, room.first(n)};
}

bool decode_page(Encoding encoding, std::span<const std::byte> payload, std::span<std::byte, kPageSize> out) {
  if (encoding == Encoding::kRaw) {
    if (payload.size() != kPageSize) return false;
    std::memcpy(out.data(), payload.data(), kPageSize);
    return true;
  }
  return ZSTD_decompressDCtx(zstd().decompress.get(), out.data(), out.size(), payload.data(), payload.size()) == kPageSize;
}

}  // namespace mhv::store
