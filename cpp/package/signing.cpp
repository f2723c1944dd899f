#include "package/signing.h"

#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace mhv::package {
namespace {

constexpr std::size_t kKeyFileMax = 16 << 10;

using ReadKey = EVP_PKEY* (*)(BIO*, EVP_PKEY**, pem_password_cb*, void*);

int no_passphrase(char*, int, int, void*) { return -1; }

std::shared_ptr<EVP_PKEY> read_key(const std::string& file, ReadKey read, const char* what, const char* how) {
  const std::string text = read_file(file, kKeyFileMax);
  const std::unique_ptr<BIO, decltype(&BIO_free)> memory(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())), &BIO_free);
  std::shared_ptr<EVP_PKEY> key(memory ? read(memory.get(), nullptr, &no_passphrase, nullptr) : nullptr, &EVP_PKEY_free);
  if (!key || EVP_PKEY_get_id(key.get()) != EVP_PKEY_ED25519) throw Error(Code::kInvalid, file + " holds no " + what, how);
  return key;
}

auto new_context() { return std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)>(EVP_MD_CTX_new(), &EVP_MD_CTX_free); }

const unsigned char* bytes_of(std::string_view text) { return reinterpret_cast<const unsigned char*>(text.data()); }

}  // namespace

PublicKey PublicKey::read(const std::string& file) {
  PublicKey out;
  out.key_ = read_key(file, &PEM_read_bio_PUBKEY, "public Ed25519 key", "openssl pkey -in KEY.pem -pubout -out VENDOR.pem");
  return out;
}

bool PublicKey::verifies(std::string_view text, const Signature& signature) const {
  const auto context = new_context();
  return context && EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key_.get()) == 1 &&
         EVP_DigestVerify(context.get(), signature.data(), signature.size(), bytes_of(text), text.size()) == 1;
}

std::string PublicKey::fingerprint() const {
  unsigned char* der = nullptr;
  const int length = i2d_PUBKEY(key_.get(), &der);
  if (length <= 0) throw Error(Code::kInternal, "cannot encode a public key");
  const std::string out = hex(sha256(std::as_bytes(std::span(der, static_cast<std::size_t>(length)))));
  OPENSSL_free(der);
  return out;
}

Signature sign(const std::string& file, std::string_view text) {
  const auto key = read_key(file, &PEM_read_bio_PrivateKey, "private Ed25519 key without a passphrase",
                            "openssl genpkey -algorithm ed25519 -out KEY.pem");
  Signature out{};
  std::size_t length = out.size();
  const auto context = new_context();
  if (!context || EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key.get()) != 1 ||
      EVP_DigestSign(context.get(), out.data(), &length, bytes_of(text), text.size()) != 1 || length != out.size()) {
    throw Error(Code::kInternal, "cannot sign with " + file);
  }
  return out;
}

}  // namespace mhv::package
