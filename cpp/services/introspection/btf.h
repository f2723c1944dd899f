// How a Linux kernel lays out its structures, as it says itself: BTF (Documentation/bpf/btf.rst), which CONFIG_DEBUG_INFO_BTF puts
// between the symbols __start_BTF and __stop_BTF.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "introspection/name_index.h"

namespace mhv::introspection {

inline constexpr std::size_t kBtfBytesMax = 64u << 20;

// Where a member is.
struct Field {
  std::uint32_t offset = 0;  // bytes from the beginning of the structure
  std::uint32_t type = 0;    // its BTF type
};

// Thread-safe: nothing changes after it was made.
class Btf {
 public:
  // The whole of it. Throws kCorrupt with what is wrong: the guest can have written anything.
  explicit Btf(std::vector<std::byte> bytes);
  Btf(Btf&&) = default;  // no copy: names point into the bytes

  // The structure or union of that name; nullopt: there is none.
  std::optional<std::uint32_t> find(std::string_view name) const;
  // A member of the structure `name`, also inside of anonymous ones; "mm.pgd" goes on into the type of mm, not through pointers.
  // nullopt: this kernel has none, or it is a bit field.
  std::optional<Field> field(std::string_view name, std::string_view member) const;
  // Of a type: bytes, typedefs and qualifiers looked through; 0: it has none, or is too deep.
  std::uint64_t size_of(std::uint32_t type) const;
  // The number that `name` of the enumeration is; nullopt: there is none. Takes time in proportion to all types.
  std::optional<std::int32_t> enumerator(std::string_view enumeration, std::string_view name) const;

 private:
  struct Type {
    std::uint32_t name, info, size_or_type;
  };
  std::string_view string_at(std::uint32_t offset) const;
  std::string_view name_of(std::uint32_t number) const;
  std::optional<Type> type_at(std::uint32_t number) const;
  std::optional<std::uint32_t> without_qualifiers(std::uint32_t number) const;
  std::optional<Field> field_in(std::uint32_t number, std::string_view member, unsigned depth, std::size_t& looks) const;

  std::vector<std::byte> bytes_;
  std::string_view strings_;           // each ended by a zero byte
  std::vector<std::uint32_t> places_;  // of the types, from number 1
  NameIndex structures_{0};            // by name
};

}  // namespace mhv::introspection
