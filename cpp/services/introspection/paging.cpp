#include "introspection/paging.h"

#include <algorithm>

#include "base/units.h"

namespace mhv::introspection {
namespace {

constexpr unsigned kTableShift = 9;
constexpr std::uint64_t kPresent = 1, kLarge = 1u << 7;

bool is_canonical(GuestVirt at, int levels) {
  const unsigned unused = 64 - (kPageShift + kTableShift * static_cast<unsigned>(levels));
  const auto value = static_cast<std::int64_t>(at.value);
  return static_cast<std::int64_t>(at.value << unused) >> unused == value;
}

}  // namespace

template <typename EntryAt>
std::optional<AddressSpace::Mapping> AddressSpace::walk(GuestVirt at, EntryAt&& entry_at) const {
  if (!is_canonical(at, levels_)) return std::nullopt;
  GuestPhys table = root_;
  for (int level = levels_;; --level) {
    const unsigned shift = kPageShift + kTableShift * static_cast<unsigned>(level - 1);
    const std::uint64_t slot = (at.value >> shift) & ((1u << kTableShift) - 1);
    const std::optional<std::uint64_t> entry = entry_at(table + slot * sizeof(std::uint64_t));
    if (!entry || (*entry & kPresent) == 0) return std::nullopt;
    if (level == 1 || (level <= 3 && (*entry & kLarge) != 0)) {
      const std::uint64_t inside = (std::uint64_t{1} << shift) - 1;
      return Mapping{{(*entry & kAddressBits & ~inside) | (at.value & inside)}, inside + 1};
    }
    table = GuestPhys{*entry & kAddressBits};
  }
}

std::optional<AddressSpace::Mapping> AddressSpace::translate(GuestVirt at) const {
  return walk(at, [this](GuestPhys entry) { return read_as<std::uint64_t>(*memory_, entry); });
}

bool AddressSpace::read(GuestVirt at, std::span<std::byte> out) const {
  while (!out.empty()) {
    const auto there = translate(at);
    if (!there) return false;
    const std::size_t some = std::min<std::uint64_t>(out.size(), there->page_bytes - at.value % there->page_bytes);
    if (!memory_->read(there->at, out.first(some))) return false;
    at = at + some;
    out = out.subspan(some);
  }
  return true;
}

std::optional<std::uint64_t> Look::entry(GuestPhys at) {
  const GuestPhys table{at.value - at.value % kPageSize};
  const std::size_t place = table.value / kPageSize % kTables;
  if (table_at_[place] != table || table.value == 0) {
    table_at_[place] = {};
    if (!space_.memory().read(table, std::as_writable_bytes(std::span(tables_[place])))) return std::nullopt;
    table_at_[place] = table;
  }
  return tables_[place][at.value % kPageSize / sizeof(std::uint64_t)];
}

// Large pages are known by 2 MiB.
const Look::Known* Look::find(GuestVirt at) {
  constexpr std::uint64_t kLargeBytes = 2 << 20;
  Known& small = small_[at.value / kPageSize % kKnown];
  Known& large = large_[at.value / kLargeBytes % kKnown];
  for (const Known* known : {&large, &small}) {
    if (at.value - known->first < known->bytes) return known;
  }
  const auto there = space_.walk(at, [this](GuestPhys one) { return entry(one); });
  if (!there) return nullptr;
  const std::uint64_t bytes = std::min(there->page_bytes, kLargeBytes), inside = at.value % bytes;
  Known& out = bytes == kLargeBytes ? large : small;
  out = {at.value - inside, bytes, {there->at.value - inside}};
  return &out;
}

bool Look::read(GuestVirt at, std::span<std::byte> out) {
  while (!out.empty()) {
    const Known* const known = find(at);
    if (known == nullptr) return false;
    const std::uint64_t inside = at.value - known->first;
    const std::size_t some = std::min<std::uint64_t>(out.size(), known->bytes - inside);
    if (!space_.memory().read(known->at + inside, out.first(some))) return false;
    at = at + some;
    out = out.subspan(some);
  }
  return true;
}

std::optional<GuestPhys> Look::translate(GuestVirt at) {
  const Known* const known = find(at);
  return known != nullptr ? std::optional(known->at + (at.value - known->first)) : std::nullopt;
}

std::optional<std::string> AddressSpace::read_string(GuestVirt at, std::size_t max) const {
  std::string text;
  while (text.size() < max) {
    const std::size_t before = text.size(), some = std::min<std::uint64_t>(max - before, kPageSize - at.value % kPageSize);
    text.resize(before + some);
    if (!read(at, std::as_writable_bytes(std::span(text).subspan(before)))) return std::nullopt;
    if (const std::size_t end = text.find('\0', before); end != std::string::npos) {
      text.resize(end);
      return text;
    }
    at = at + some;
  }
  return text;
}

}  // namespace mhv::introspection
