// For the tests of this folder: memory, and what a kernel puts there.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "base/units.h"
#include "introspection/memory.h"

namespace mhv::introspection::testing {

// RAM from address 0 on.
class TestMemory : public PhysicalMemory {
 public:
  explicit TestMemory(std::size_t bytes) : bytes_(bytes) {}

  bool read(GuestPhys at, std::span<std::byte> out) const override {
    if (at.value > bytes_.size() || bytes_.size() - at.value < out.size()) return false;
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(at.value), out.size(), out.begin());
    return true;
  }
  std::vector<PhysRange> ranges() const override { return {{{0}, bytes_.size()}}; }

  template <typename T>
  void put(std::uint64_t at, const T& value) {
    std::memcpy(bytes_.data() + at, &value, sizeof value);
  }
  void put_bytes(std::uint64_t at, std::span<const std::byte> bytes) {
    std::ranges::copy(bytes, bytes_.begin() + static_cast<std::ptrdiff_t>(at));
  }

 private:
  std::vector<std::byte> bytes_;
};

// Page tables: the root at `root`, the others behind it.
class Tables {
 public:
  Tables(TestMemory& memory, std::uint64_t root) : memory_(memory), root_(root), next_(root) {}
  std::uint64_t root() const { return root_; }
  // `level_of_page` 1: 4 KiB, 2: 2 MiB, 3: 1 GiB.
  void map(std::uint64_t virt, std::uint64_t phys, int levels, int level_of_page) {
    constexpr std::uint64_t kPresent = 1, kLarge = 1u << 7, kNoExecute = std::uint64_t{1} << 63;
    const auto slot = [&](int level) { return (virt >> (12 + 9 * (level - 1)) & 511) * 8; };
    std::uint64_t table = root_;
    for (int level = levels; level > level_of_page; --level) {
      std::uint64_t entry = *read_as<std::uint64_t>(memory_, {table + slot(level)});
      if (entry == 0) memory_.put(table + slot(level), entry = (next_ += kPageSize) | kPresent | kNoExecute);
      table = entry & 0x000f'ffff'ffff'f000;
    }
    memory_.put(table + slot(level_of_page), phys | kPresent | (level_of_page > 1 ? kLarge : 0));
  }

 private:
  TestMemory& memory_;
  const std::uint64_t root_;
  std::uint64_t next_;
};

// Little-endian bytes, one behind the other.
class Writer {
 public:
  template <typename T>
  void put(T value) {
    const auto bytes = std::as_bytes(std::span(&value, 1));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  void put(std::string_view text) {
    const auto bytes = std::as_bytes(std::span(text));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  void align(std::size_t to) { bytes_.resize((bytes_.size() + to - 1) / to * to); }
  std::size_t size() const { return bytes_.size(); }
  std::vector<std::byte>& bytes() { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

// Kinds of types.
inline constexpr std::uint32_t kInt = 1, kPtr = 2, kArray = 3, kStruct = 4, kUnion = 5, kEnum = 6, kTypedef = 8, kConst = 10;
inline constexpr std::uint32_t kBitFields = 1u << 31;

class TestBtf {
 public:
  std::uint32_t add(std::uint32_t kind, const std::string& name, std::uint32_t size_or_type, std::uint32_t count = 0,
                    std::uint32_t flag = 0) {
    types_.put(text(name));
    types_.put(kind << 24 | count | flag);
    types_.put(size_or_type);
    return ++number_;
  }
  void word(std::uint32_t value) { types_.put(value); }
  void member(const std::string& name, std::uint32_t type, std::uint32_t bits) {
    types_.put(text(name));
    types_.put(type);
    types_.put(bits);
  }
  void enumerator(const std::string& name, std::uint32_t value) {
    types_.put(text(name));
    types_.put(value);
  }
  std::vector<std::byte> bytes() {
    Writer out;
    out.put(std::uint16_t{0xeb9f});
    out.put(std::uint8_t{1});
    out.put(std::uint8_t{0});
    out.put(std::uint32_t{24});
    out.put(std::uint32_t{0});
    out.put(static_cast<std::uint32_t>(types_.size()));
    out.put(static_cast<std::uint32_t>(types_.size()));
    out.put(static_cast<std::uint32_t>(strings_.size()));
    out.put({reinterpret_cast<const char*>(types_.bytes().data()), types_.size()});
    out.put(std::string_view(strings_));
    return std::move(out.bytes());
  }

 private:
  std::uint32_t text(const std::string& name) {
    if (name.empty()) return 0;
    strings_ += name;
    strings_ += '\0';
    return static_cast<std::uint32_t>(strings_.size() - name.size() - 1);
  }
  Writer types_;
  std::string strings_ = std::string(1, '\0');
  std::uint32_t number_ = 0;
};

struct TestSymbol {
  std::uint64_t address;
  std::string text;  // with the type before it
};

// The tables as scripts/kallsyms.c of a version writes them.
struct KallsymsLayout {
  bool offsets_last = false;     // since 6.4
  bool sequence = false;         // seqs_of_names, since 6.2 and in what distributions made of older ones
  bool processor_areas = false;  // negative offsets are relative
};

inline std::vector<std::byte> make_kallsyms(const std::vector<TestSymbol>& symbols, const KallsymsLayout& layout, std::uint64_t base) {
  // Each character stands for itself; the token 1 for "sys_".
  std::vector<std::string> tokens(256);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = i == 0 ? "x" : std::string(1, static_cast<char>(i));
  tokens[1] = "sys_";
  Writer offsets, names, markers, table, index;
  for (const TestSymbol& symbol : symbols) {
    std::int64_t offset = static_cast<std::int64_t>(symbol.address - base);
    if (layout.processor_areas) offset = symbol.address < base ? static_cast<std::int64_t>(symbol.address) : -1 - offset;
    offsets.put(static_cast<std::int32_t>(offset));
  }
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    if (i % 256 == 0) markers.put(static_cast<std::uint32_t>(names.size()));
    std::string packed;
    for (std::string_view rest = symbols[i].text; !rest.empty();) {
      const bool merged = rest.starts_with("sys_");
      packed += merged ? '\1' : rest.front();
      rest.remove_prefix(merged ? 4 : 1);
    }
    if (packed.size() >= 128) names.put(static_cast<std::uint8_t>((packed.size() & 0x7f) | 0x80));
    names.put(static_cast<std::uint8_t>(packed.size() >= 128 ? packed.size() >> 7 : packed.size()));
    names.put(std::string_view(packed));
  }
  for (const std::string& token : tokens) {
    index.put(static_cast<std::uint16_t>(table.size()));
    table.put(std::string_view(token.c_str(), token.size() + 1));
  }
  Writer out;
  const auto add = [&](Writer& part) {
    out.align(8);
    out.bytes().insert(out.bytes().end(), part.bytes().begin(), part.bytes().end());
    out.align(8);
  };
  Writer relative, count, sequence;
  relative.put(base);
  count.put(static_cast<std::uint32_t>(symbols.size()));
  sequence.bytes().resize(layout.sequence ? symbols.size() * 3 : 0, std::byte{0x5a});
  if (!layout.offsets_last) {
    for (Writer* part : {&offsets, &relative, &count, &names, &markers, &sequence, &table, &index}) add(*part);
  } else {
    for (Writer* part : {&count, &names, &markers, &table, &index, &offsets, &relative, &sequence}) add(*part);
  }
  return std::move(out.bytes());
}

}  // namespace mhv::introspection::testing
