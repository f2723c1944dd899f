#include "store/sealing.h"

#include <algorithm>
#include <string>

#include "store/format_bytes.h"

namespace mhv::store {
namespace {

const unsigned char* octets(std::span<const std::byte> bytes) { return reinterpret_cast<const unsigned char*>(bytes.data()); }

Seal::Nonce nonce_of(std::uint64_t offset) {
  Seal::Nonce nonce{};
  std::memcpy(nonce.data(), &offset, sizeof offset);
  return nonce;
}

Secret first_half(const keys::Key& key) {
  Secret out;
  std::copy_n(key.bytes.begin(), out.size(), out.begin());
  return out;
}

}  // namespace

void Seal::seal(const Nonce& nonce, std::span<const std::byte> clear, std::span<const std::byte> plain, std::byte* out) const {
  CipherContext context = pool_.take();
  EVP_CIPHER_CTX* const evp = context.get();
  unsigned char* const to = reinterpret_cast<unsigned char*>(out);
  int n = 0;
  if (EVP_EncryptInit_ex2(evp, nullptr, nullptr, nonce.data(), nullptr) != 1 ||
      EVP_EncryptUpdate(evp, nullptr, &n, octets(clear), static_cast<int>(clear.size())) != 1 ||
      EVP_EncryptUpdate(evp, to, &n, octets(plain), static_cast<int>(plain.size())) != 1 || EVP_EncryptFinal_ex(evp, to + n, &n) != 1 ||
      EVP_CIPHER_CTX_ctrl(evp, EVP_CTRL_AEAD_GET_TAG, kTagBytes, to + plain.size()) != 1) {
    throw Error(Code::kInternal, "OpenSSL cannot encrypt");
  }
  pool_.give_back(std::move(context));
}

bool Seal::open(const Nonce& nonce, std::span<const std::byte> clear, std::span<const std::byte> sealed, std::byte* out) const {
  if (sealed.size() < kTagBytes) return false;
  const auto body = sealed.first(sealed.size() - kTagBytes);
  std::array<unsigned char, kTagBytes> tag;
  std::memcpy(tag.data(), sealed.data() + body.size(), tag.size());
  CipherContext context = pool_.take();
  EVP_CIPHER_CTX* const evp = context.get();
  unsigned char* const to = reinterpret_cast<unsigned char*>(out);
  int n = 0;
  if (EVP_DecryptInit_ex2(evp, nullptr, nullptr, nonce.data(), nullptr) != 1 ||
      EVP_DecryptUpdate(evp, nullptr, &n, octets(clear), static_cast<int>(clear.size())) != 1 ||
      EVP_DecryptUpdate(evp, to, &n, octets(body), static_cast<int>(body.size())) != 1 ||
      EVP_CIPHER_CTX_ctrl(evp, EVP_CTRL_AEAD_SET_TAG, kTagBytes, tag.data()) != 1) {
    throw Error(Code::kInternal, "OpenSSL cannot decrypt");
  }
  const bool good = EVP_DecryptFinal_ex(evp, to + n, &n) == 1;
  pool_.give_back(std::move(context));
  return good;
}

std::uint64_t serialize_sealed(Kind kind, const PageKey& key, std::span<const std::byte> payload, const Seal& seal, std::uint64_t offset,
                               std::byte* out) {
  const RecordHeader header = record_header(kind, key, payload.size() + kTagBytes, true);
  seal.seal(nonce_of(offset), unchecked(header), payload, out + sizeof header);
  return finish_record(header, out);
}

std::optional<std::span<const std::byte>> open_record(const Record& record, const Seal* seal, std::uint64_t offset,
                                                      std::span<std::byte> room) {
  if (record.sealed != (seal != nullptr)) return std::nullopt;
  if (seal == nullptr) return record.payload;
  const RecordHeader header = record_header(record.kind, record.key, record.payload.size(), true);
  if (!seal->open(nonce_of(offset), unchecked(header), record.payload, room.data())) return std::nullopt;
  return room.first(record.payload.size() - kTagBytes);
}

StoreSeals::StoreSeals(const keys::Key& guest_key, const Secret& salt)
    : key_(keys::derive(guest_key, salt, "nova-mhv store keys")), catalog_(keys::derive(key_, {}, "catalog")) {}

Secret StoreSeals::check() const { return first_half(keys::derive(key_, {}, "check")); }

NameSecrets StoreSeals::names() const { return {first_half(keys::derive(key_, {}, "names")), keys::derive(key_, {}, "names' cover")}; }

std::shared_ptr<const Seal> StoreSeals::segment(std::uint32_t number, const Secret& salt) const {
  return std::make_shared<const Seal>(keys::derive(key_, salt, "segment " + std::to_string(number)));
}

}  // namespace mhv::store
