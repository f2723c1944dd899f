// Whatever a checkpoint's records, a frame, CATALOG or FORMAT hold: taken apart or refused; what was taken apart is written as it was.
#include <cstring>

#include "store/format_bytes.h"
#include "store/sealing.h"

namespace {

using namespace mhv::store;

template <typename Fn>
void attempt(Fn&& fn) {
  try {
    fn();
  } catch (const mhv::Error&) {
  }
}

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

void try_payload(std::span<const std::byte> bytes) {
  attempt([&] { parse_entries(bytes); });
  attempt([&] {
    const InfoRecord record = parse_info(bytes);
    const InfoRecord again = parse_info(bytes_of(serialize_info(record)));
    if (again.info.id != record.info.id || again.device_state != record.device_state) __builtin_trap();
  });
  attempt([&] {
    const Transaction transaction = parse_transaction(bytes);
    const Transaction again = parse_transaction(bytes_of(serialize_transaction(transaction)));
    if (again.put.size() != transaction.put.size() || again.gone != transaction.gone) __builtin_trap();
  });
}

void try_catalog(std::span<const std::byte> bytes, const Seal* seal) {
  attempt([&] {
    std::string damage;
    const Catalog catalog = parse_catalog(bytes, seal, damage);
    if (parse_catalog(serialize_catalog(catalog, seal), seal, damage).links.size() != catalog.links.size()) __builtin_trap();
  });
}

// The same payload under a header whose length and checksum are right, to come past them.
std::vector<std::byte> as_catalog(std::span<const std::byte> payload, std::uint32_t version) {
  CatalogHeader header{};
  std::memcpy(header.magic, "MHVCAT\r\n", 8);
  header.version = version;
  header.bytes = payload.size();
  header.checksum = hash2(unchecked(header), payload);
  std::vector<std::byte> out;
  for (int copy = 0; copy < 2; ++copy) {
    append(out, header);
    out.insert(out.end(), payload.begin(), payload.end());
  }
  return out;
}

// As CATALOG of an encrypted store holds it, by whoever has the key.
std::vector<std::byte> sealed(std::span<const std::byte> payload, const Seal& seal) {
  CatalogHeader header{};
  std::memcpy(header.magic, "MHVCAT\r\n", 8);
  header.version = kSealedVersion;
  const Seal::Nonce nonce{};
  header.bytes = sizeof nonce + payload.size() + kTagBytes;
  std::vector<std::byte> out(header.bytes);
  std::memcpy(out.data(), nonce.data(), sizeof nonce);
  seal.seal(nonce, unchecked(header), payload, out.data() + sizeof nonce);
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  static const Seal seal{mhv::keys::Key(std::string(32, 'k'))};
  attempt([&] {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    if (format_line(parse_format_line(text)) != text) __builtin_trap();
  });
  try_payload(bytes);
  for (const Seal* one : {static_cast<const Seal*>(nullptr), &seal}) try_catalog(bytes, one);
  try_catalog(as_catalog(bytes, kFormatVersion), nullptr);
  try_catalog(as_catalog(bytes, kSealedVersion), &seal);
  try_catalog(as_catalog(sealed(bytes, seal), kSealedVersion), &seal);
  return 0;
}
