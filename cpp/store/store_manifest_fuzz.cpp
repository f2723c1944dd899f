// Whatever a checkpoint's records, a frame, CATALOG or FORMAT hold: taken apart or refused; what was taken apart is written as it was.
#include <cstring>

#include "store/format_bytes.h"

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

void try_catalog(std::span<const std::byte> bytes) {
  attempt([&] {
    std::string damage;
    const Catalog catalog = parse_catalog(bytes, damage);
    if (parse_catalog(serialize_catalog(catalog), damage).links.size() != catalog.links.size()) __builtin_trap();
  });
}

// The same payload under a header whose length and checksum are right, to come past them.
std::vector<std::byte> as_catalog(std::span<const std::byte> payload) {
  CatalogHeader header{};
  std::memcpy(header.magic, "MHVCAT\r\n", 8);
  header.version = kFormatVersion;
  header.bytes = payload.size();
  header.checksum = hash2(unchecked(header), payload);
  std::vector<std::byte> out;
  for (int copy = 0; copy < 2; ++copy) {
    append(out, header);
    out.insert(out.end(), payload.begin(), payload.end());
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  attempt([&] { check_format_line({reinterpret_cast<const char*>(data), size}); });
  try_payload(bytes);
  try_catalog(bytes);
  try_catalog(as_catalog(bytes));
  return 0;
}
