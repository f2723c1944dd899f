#include "introspection/kallsyms.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <cstring>
#include <functional>

namespace mhv::introspection {
namespace {

constexpr std::size_t kTokens = 256;
constexpr std::size_t kDigits = '0';  // the first token of which everybody knows what it stands for
constexpr std::size_t kTokenBytesMax = 128;
constexpr std::size_t kMarkerEvery = 256;
constexpr std::size_t kSymbolsMin = 1000;
// However a guest arranges its memory, no more is done than this.
constexpr std::size_t kTriesMax = 64;
constexpr std::size_t kWalkMax = 4 * kSymbolsMax;  // names looked at
constexpr std::size_t kNamesBytesMax = 64u << 20;
constexpr std::size_t kProbesMax = 64;
constexpr std::uint64_t kKernelSpace = 0xffff'8000'0000'0000;

using Bytes = std::span<const std::byte>;

constexpr std::size_t aligned(std::size_t at) { return (at + 7) & ~std::size_t{7}; }

template <typename T>
std::optional<T> load(Bytes bytes, std::size_t at) {
  if (at > bytes.size() || bytes.size() - at < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

std::uint8_t byte_at(Bytes bytes, std::size_t at) { return std::to_integer<std::uint8_t>(bytes[at]); }

// What the tokens stand for. Places are those in the part.
struct Tokens {
  std::size_t begin = 0, end = 0;  // of token_table and token_index together
  std::array<std::string_view, kTokens> text;
};

// `digits`: where "0", "1", ... "9" stand one behind the other. They are never merged into others.
std::optional<Tokens> tokens_around(Bytes part, std::size_t digits) {
  const char* const text = reinterpret_cast<const char*>(part.data());
  std::size_t at = digits;
  for (std::size_t token = kDigits; token < kTokens; ++token) {
    const std::size_t room = std::min(part.size() - at, kTokenBytesMax);
    const void* const end = std::memchr(text + at, 0, room);
    if (end == nullptr) return std::nullopt;
    at = static_cast<std::size_t>(static_cast<const char*>(end) - text) + 1;
  }
  const std::size_t index = aligned(at), length = at;
  const auto first = load<std::uint16_t>(part, index + kDigits * sizeof(std::uint16_t));
  if (!first || *first > digits) return std::nullopt;
  Tokens out;
  out.begin = digits - *first;
  out.end = index + kTokens * sizeof(std::uint16_t);
  if (out.end > part.size()) return std::nullopt;
  std::size_t expected = out.begin;
  for (std::size_t token = 0; token < kTokens; ++token) {
    const std::size_t begin = out.begin + *load<std::uint16_t>(part, index + token * sizeof(std::uint16_t));
    if (begin != expected || begin >= length) return std::nullopt;
    const void* const end = std::memchr(text + begin, 0, std::min(length - begin, kTokenBytesMax));
    if (end == nullptr) return std::nullopt;
    expected = static_cast<std::size_t>(static_cast<const char*>(end) - text) + 1;
    out.text[token] = {text + begin, expected - 1 - begin};
  }
  return expected == length ? std::optional(out) : std::nullopt;
}

// Names that lead to every marker.
struct Names {
  std::size_t begin = 0;  // of num_syms
  std::uint32_t count = 0;
};

// The number of tokens at `place`, which then stands behind it; 0: no name begins there.
std::size_t length_at(Bytes part, std::size_t& place, std::size_t end) {
  if (place >= end) return 0;
  std::size_t length = byte_at(part, place++);
  if ((length & 0x80) != 0) {
    if (place >= end) return 0;
    length = (length & 0x7f) | std::size_t{byte_at(part, place++)} << 7;
  }
  return length <= kSymbolBytesMax && end - place >= length ? length : 0;
}

// num_syms at `at`. `walk`: so many names may be looked at still.
std::optional<Names> names_at(Bytes part, std::size_t at, std::size_t end, std::size_t& walk) {
  const auto count = load<std::uint32_t>(part, at);
  if (!count || *count < kSymbolsMin || *count > kSymbolsMax || load<std::uint32_t>(part, at + 4) != 0u) return std::nullopt;
  std::vector<std::uint32_t> markers;
  std::size_t place = at + 8;
  for (std::uint32_t symbol = 0; symbol < *count; ++symbol) {
    if (symbol % kMarkerEvery == 0) markers.push_back(static_cast<std::uint32_t>(place - at - 8));
    if (walk == 0) return std::nullopt;
    --walk;
    const std::size_t length = length_at(part, place, end);
    if (length == 0) return std::nullopt;
    place += length;
  }
  for (std::size_t i = 0; i < markers.size(); ++i) {
    if (load<std::uint32_t>(part, aligned(place) + i * sizeof(std::uint32_t)) != markers[i]) return std::nullopt;
  }
  return Names{at, *count};
}

struct Texts {
  std::string text;                   // each with its type before it and a zero byte behind
  std::vector<std::uint32_t> starts;  // of each symbol
};

std::optional<Texts> expand(Bytes part, const Names& names, const Tokens& tokens) {
  constexpr std::size_t kUsualBytes = 24;
  Texts out;
  out.text.reserve(names.count * kUsualBytes);
  out.starts.reserve(names.count);
  std::size_t place = names.begin + 8;
  for (std::uint32_t symbol = 0; symbol < names.count; ++symbol) {
    const std::size_t start = out.text.size();
    if (start > kNamesBytesMax) return std::nullopt;
    for (std::size_t left = length_at(part, place, tokens.begin); left != 0; --left) out.text += tokens.text[byte_at(part, place++)];
    const std::size_t bytes = out.text.size() - start;
    if (bytes < 2 || bytes > kSymbolBytesMax || std::isalpha(static_cast<unsigned char>(out.text[start])) == 0) return std::nullopt;
    out.starts.push_back(static_cast<std::uint32_t>(start));
    out.text += '\0';
  }
  return out;
}

std::optional<Names> names_before(Bytes part, const Tokens& tokens, std::size_t& walk) {
  for (std::size_t at = tokens.begin & ~std::size_t{7}; at >= 8 && walk > kSymbolsMin;) {
    at -= 8;
    if (const auto names = names_at(part, at, tokens.begin, walk)) return names;
  }
  return std::nullopt;
}

// Offsets at `at`, relative_base at `base`.
std::optional<std::vector<GuestVirt>> addresses_at(Bytes part, std::size_t at, std::size_t base, std::size_t count) {
  const auto relative = load<std::uint64_t>(part, base);
  if (!relative || *relative < kKernelSpace || at > part.size() || (part.size() - at) / sizeof(std::int32_t) < count) return std::nullopt;
  std::vector<std::int32_t> offsets(count);
  std::memcpy(offsets.data(), part.data() + at, count * sizeof(std::int32_t));
  const bool some_absolute = std::ranges::any_of(offsets, [](std::int32_t offset) { return offset < 0; });
  std::vector<GuestVirt> out;
  out.reserve(count);
  for (const std::int32_t offset : offsets) {
    const auto wide = static_cast<std::uint64_t>(std::int64_t{offset});
    const std::uint64_t address = !some_absolute ? *relative + wide : offset < 0 ? *relative - 1 - wide : wide;
    if (!out.empty() && address < out.back().value) return std::nullopt;  // sorted by address
    out.push_back({address});
  }
  return out;
}

std::optional<std::vector<GuestVirt>> addresses(Bytes part, const Names& names, const Tokens& tokens) {
  const std::size_t count = names.count, bytes = aligned(count * sizeof(std::int32_t));
  if (names.begin >= bytes + 8) {
    if (auto found = addresses_at(part, names.begin - 8 - bytes, names.begin - 8, count)) return found;
  }
  const std::size_t behind = aligned(tokens.end);
  return addresses_at(part, behind, behind + bytes, count);
}

}  // namespace

std::optional<Kallsyms> Kallsyms::parse(Bytes part) {
  constexpr std::string_view kAllDigits("0\0001\0002\0003\0004\0005\0006\0007\0008\0009\0", 20);
  const std::string_view text(reinterpret_cast<const char*>(part.data()), part.size());
  std::size_t tries = 0, walk = kWalkMax;
  for (std::size_t digits = text.find(kAllDigits); digits != std::string_view::npos && tries++ < kTriesMax;
       digits = text.find(kAllDigits, digits + 1)) {
    const auto tokens = tokens_around(part, digits);
    if (!tokens) continue;
    const auto names = names_before(part, *tokens, walk);
    if (!names) continue;
    const auto where = addresses(part, *names, *tokens);
    auto texts = where ? expand(part, *names, *tokens) : std::nullopt;
    if (!texts) continue;
    Kallsyms out;
    out.names_ = std::move(texts->text);
    out.entries_.reserve(where->size());
    for (std::size_t i = 0; i < where->size(); ++i) out.entries_.push_back({(*where)[i], texts->starts[i]});
    out.index_names();
    return out;
  }
  return std::nullopt;
}

Kallsyms::Symbol Kallsyms::at(std::size_t number) const {
  const Entry& entry = entries_.at(number);
  const char* const text = names_.data() + entry.name;
  return {entry.at, *text, text + 1};
}

// Where many names meet on purpose, some are not found.
void Kallsyms::index_names() {
  by_name_.assign(std::bit_ceil(entries_.size() * 2), 0);
  for (std::uint32_t number = 0; number < entries_.size(); ++number) {
    const std::string_view name = at(number).name;
    const std::size_t home = std::hash<std::string_view>{}(name);
    for (std::size_t probe = 0; probe < kProbesMax; ++probe) {
      std::uint32_t& slot = by_name_[(home + probe) & (by_name_.size() - 1)];
      if (slot != 0 && at(slot - 1).name != name) continue;
      if (slot == 0) slot = number + 1;
      break;
    }
  }
}

std::optional<GuestVirt> Kallsyms::find(std::string_view name) const {
  const std::size_t home = std::hash<std::string_view>{}(name);
  for (std::size_t probe = 0; probe < kProbesMax; ++probe) {
    const std::uint32_t slot = by_name_[(home + probe) & (by_name_.size() - 1)];
    if (slot == 0) break;
    if (at(slot - 1).name == name) return entries_[slot - 1].at;
  }
  return std::nullopt;
}

std::optional<Kallsyms::Symbol> Kallsyms::before(GuestVirt address) const {
  const auto behind = std::ranges::upper_bound(entries_, address, {}, &Entry::at);
  if (behind == entries_.begin()) return std::nullopt;
  return at(static_cast<std::size_t>(behind - entries_.begin()) - 1);
}

namespace {

constexpr std::uint64_t kSpotEvery = 128 << 10;  // an offsets table is 250 KiB and more
constexpr std::size_t kSpotOffsets = 32;
constexpr std::uint64_t kAround = 6 << 20;  // of such a spot: more than the tables of any kernel
constexpr std::size_t kPartsMax = 64;       // read so closely
constexpr std::size_t kFoundMax = 4;        // a kernel and those of a few boots before

// Slowly growing numbers, or, where negative ones are relative, slowly falling ones.
bool may_be_offsets(const std::array<std::int32_t, kSpotOffsets>& spot) {
  constexpr std::int64_t kGapMax = 1 << 20;
  std::size_t same = 0;
  const bool down = spot[0] < 0;
  for (std::size_t i = 1; i < spot.size(); ++i) {
    const std::int64_t gap = down ? std::int64_t{spot[i - 1]} - spot[i] : std::int64_t{spot[i]} - spot[i - 1];
    if (gap < 0 || gap > kGapMax || (spot[i] < 0) != down) return false;
    same += gap == 0 ? 1 : 0;
  }
  return same < spot.size() / 2 && spot[0] != 0;
}

}  // namespace

std::vector<FoundKallsyms> find_kallsyms(const PhysicalMemory& memory) {
  std::vector<FoundKallsyms> found;
  std::size_t parts = 0;
  for (const PhysRange& range : memory.ranges()) {
    for (std::uint64_t at = 0; at + sizeof(std::int32_t) * kSpotOffsets <= range.bytes && parts < kPartsMax && found.size() < kFoundMax;
         at += kSpotEvery) {
      std::array<std::int32_t, kSpotOffsets> spot;
      if (!memory.read(range.start + at, std::as_writable_bytes(std::span(spot))) || !may_be_offsets(spot)) continue;
      ++parts;
      const std::uint64_t from = at - std::min(at, kAround), to = std::min(range.bytes, at + kAround);
      std::vector<std::byte> part(to - from);
      if (!memory.read(range.start + from, part)) continue;
      auto symbols = Kallsyms::parse(part);
      if (!symbols) continue;
      found.push_back({range.start + from, std::move(*symbols)});
      at = to - to % kSpotEvery;  // the rest of these tables is no other kernel's
    }
  }
  return found;
}

}  // namespace mhv::introspection
