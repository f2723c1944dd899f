#include "introspection/kallsyms.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <memory>

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
constexpr std::size_t kNameBytesUsual = 32;
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

// Most tokens are short: then a copy of a whole cell is faster than one of just their length.
struct Cell {
  std::array<char, 16> text{};
  std::size_t bytes = 0;
};

std::optional<Texts> expand(Bytes part, const Names& names, const Tokens& tokens) {
  constexpr std::size_t kRoom = kSymbolBytesMax + kTokenBytesMax + sizeof(Cell);
  std::array<Cell, kTokens> cells;
  for (std::size_t i = 0; i < kTokens; ++i) {
    cells[i].bytes = tokens.text[i].size();
    std::copy_n(tokens.text[i].data(), std::min(cells[i].bytes, cells[i].text.size()), cells[i].text.data());
  }
  Texts out;
  out.text.resize(names.count * kNameBytesUsual + kRoom);
  out.starts.reserve(names.count);
  std::size_t place = names.begin + 8, start = 0;
  for (std::uint32_t symbol = 0; symbol < names.count; ++symbol) {
    if (start > kNamesBytesMax) return std::nullopt;
    if (out.text.size() - start < kRoom) out.text.resize(2 * out.text.size());
    char* const begin = out.text.data() + start;
    std::size_t length = 0;
    for (std::size_t left = length_at(part, place, tokens.begin); left != 0 && length <= kSymbolBytesMax; --left) {
      const std::uint8_t token = byte_at(part, place++);
      const Cell& cell = cells[token];
      if (cell.bytes <= cell.text.size()) {
        std::memcpy(begin + length, cell.text.data(), cell.text.size());
      } else {
        std::memcpy(begin + length, tokens.text[token].data(), cell.bytes);
      }
      length += cell.bytes;
    }
    if (length < 2 || length > kSymbolBytesMax || std::isalpha(static_cast<unsigned char>(*begin)) == 0) return std::nullopt;
    begin[length] = '\0';
    out.starts.push_back(static_cast<std::uint32_t>(start));
    start += length + 1;
  }
  out.text.resize(start);
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
  std::size_t walk = kWalkMax;
  Bytes rest = part;
  for (std::size_t tries = 0; tries < kTriesMax; ++tries) {
    const void* const found = memmem(rest.data(), rest.size(), kAllDigits.data(), kAllDigits.size());
    if (found == nullptr) break;
    const auto digits = static_cast<std::size_t>(static_cast<const std::byte*>(found) - part.data());
    rest = part.subspan(digits + 1);
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
    const auto name_of = [&](std::uint32_t number) { return out.name_of(number); };
    out.by_name_ = NameIndex(out.entries_.size());
    for (std::uint32_t number = 0; number < out.entries_.size(); ++number) out.by_name_.add(number, name_of);
    return out;
  }
  return std::nullopt;
}

Kallsyms::Symbol Kallsyms::at(std::size_t number) const {
  const Entry& entry = entries_.at(number);
  return {entry.at, names_[entry.name], name_of(number)};
}

std::string_view Kallsyms::name_of(std::size_t number) const {
  const std::size_t begin = entries_[number].name + 1, end = number + 1 < entries_.size() ? entries_[number + 1].name : names_.size();
  return std::string_view(names_).substr(begin, end - begin - 1);
}

std::optional<GuestVirt> Kallsyms::find(std::string_view name) const {
  const auto number = by_name_.find(name, [this](std::uint32_t one) { return name_of(one); });
  return number ? std::optional(entries_[*number].at) : std::nullopt;
}

std::optional<Kallsyms::Symbol> Kallsyms::before(GuestVirt address) const {
  const auto behind = std::ranges::upper_bound(entries_, address, {}, &Entry::at);
  if (behind == entries_.begin()) return std::nullopt;
  return at(static_cast<std::size_t>(behind - entries_.begin()) - 1);
}

std::optional<Kallsyms::Symbol> Kallsyms::after(GuestVirt address) const {
  const auto behind = std::ranges::upper_bound(entries_, address, {}, &Entry::at);
  return behind == entries_.end() ? std::nullopt : std::optional(at(static_cast<std::size_t>(behind - entries_.begin())));
}

namespace {

constexpr std::uint64_t kSpotEvery = 128 << 10;  // an offsets table is 250 KiB and more
constexpr std::size_t kSpotOffsets = 32;
constexpr std::uint64_t kStepBytes = 24 << 10;  // so many steps from the first spot in it are within the table
constexpr std::size_t kSteps = 5;
constexpr std::array<std::uint64_t, 2> kAround{3 << 20, 8 << 20};  // of such a spot: the tables of Debian's kernels, of any kernel
constexpr std::size_t kPartsMax = 64;                              // read so closely
constexpr std::size_t kFoundMax = 4;                               // a kernel and those of a few boots before

using Spot = std::array<std::int32_t, kSpotOffsets>;

// Slowly growing numbers, or, where negative ones are relative, slowly falling ones.
bool may_be_offsets(const Spot& spot) {
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

class Finder {
 public:
  explicit Finder(const PhysicalMemory& memory) : memory_(memory) {}

  std::vector<FoundKallsyms> run() {
    for (const PhysRange& range : memory_.ranges()) {
      for (std::uint64_t at = 0; at < range.bytes && parts_ < kPartsMax && found_.size() < kFoundMax; at += kSpotEvery) {
        const auto spot = spot_at(range, at);
        if (!spot || !goes_on(range, at, *spot)) continue;
        // The rest of the tables that are found is no other kernel's.
        if (const auto end = parse_around(range, at)) at = *end - *end % kSpotEvery;
      }
    }
    return std::move(found_);
  }

 private:
  std::optional<Spot> spot_at(const PhysRange& range, std::uint64_t at) const {
    Spot spot;
    if (at > range.bytes || range.bytes - at < sizeof spot) return std::nullopt;
    if (!memory_.read(range.start + at, std::as_writable_bytes(std::span(spot))) || !may_be_offsets(spot)) return std::nullopt;
    return spot;
  }

  // A look at a few more numbers spares a read of megabytes.
  bool goes_on(const PhysRange& range, std::uint64_t at, Spot last) const {
    for (std::size_t step = 0; step < kSteps; ++step) {
      at += kStepBytes;
      const auto spot = spot_at(range, at);
      if (!spot || ((*spot)[0] > last[0]) != ((*spot)[0] >= 0)) return false;
      last = *spot;
    }
    return true;
  }

  std::optional<std::uint64_t> parse_around(const PhysRange& range, std::uint64_t at) {
    ++parts_;
    for (const std::uint64_t around : kAround) {
      const std::uint64_t from = at - std::min(at, around), to = std::min(range.bytes, at + around);
      std::span<std::byte> part = buffer(to - from);
      if (!memory_.read(range.start + from, part)) continue;
      auto symbols = Kallsyms::parse(part);
      if (!symbols) continue;
      found_.push_back({range.start + from, std::move(*symbols)});
      return to;
    }
    return std::nullopt;
  }

  std::span<std::byte> buffer(std::size_t bytes) {
    if (bytes > buffer_bytes_) buffer_ = std::make_unique_for_overwrite<std::byte[]>(buffer_bytes_ = bytes);
    return {buffer_.get(), bytes};
  }

  const PhysicalMemory& memory_;
  std::vector<FoundKallsyms> found_;
  std::unique_ptr<std::byte[]> buffer_;
  std::size_t buffer_bytes_ = 0;
  std::size_t parts_ = 0;
};

}  // namespace

std::vector<FoundKallsyms> find_kallsyms(const PhysicalMemory& memory) { return Finder(memory).run(); }

}  // namespace mhv::introspection
