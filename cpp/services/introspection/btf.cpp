#include "introspection/btf.h"

#include <cstddef>
#include <cstring>
#include <string>

#include "base/error.h"

namespace mhv::introspection {
namespace {

constexpr std::uint16_t kMagic = 0xeb9f;
constexpr std::size_t kTypeBytesUsual = 20;  // with what follows it
constexpr unsigned kDepthMax = 16;           // of typedefs, and of anonymous members in one another
constexpr std::size_t kLooksMax = 1u << 20;  // at members, for one field

struct Header {
  std::uint16_t magic;
  std::uint8_t version, flags;
  std::uint32_t header_bytes;
  std::uint32_t types_at, types_bytes, strings_at, strings_bytes;  // behind the header
};
static_assert(sizeof(Header) == 24 && offsetof(Header, header_bytes) == 4 && offsetof(Header, strings_bytes) == 20);

struct Member {
  std::uint32_t name, type, offset;
};
static_assert(sizeof(Member) == 12);

struct Enumerator {
  std::uint32_t name;
  std::int32_t value;
};
static_assert(sizeof(Enumerator) == 8);

struct Array {
  std::uint32_t type, index_type, count;
};
static_assert(sizeof(Array) == 12);

enum Kind : std::uint32_t {
  kInt = 1,
  kPtr,
  kArray,
  kStruct,
  kUnion,
  kEnum,
  kFwd,
  kTypedef,
  kVolatile,
  kConst,
  kRestrict,
  kFunc,
  kFuncProto,
  kVar,
  kDatasec,
  kFloat,
  kDeclTag,
  kTypeTag,
  kEnum64
};

constexpr std::uint32_t kind_of(std::uint32_t info) { return info >> 24 & 0x1f; }
constexpr std::uint32_t count_of(std::uint32_t info) { return info & 0xffff; }
constexpr bool has_bit_fields(std::uint32_t info) { return info >> 31 != 0; }

// Bytes that follow a type of that kind; nullopt: no such kind.
std::optional<std::uint32_t> bytes_behind(std::uint32_t info) {
  switch (kind_of(info)) {
    case kInt:
    case kVar:
    case kDeclTag: return 4;
    case kArray: return sizeof(Array);
    case kStruct:
    case kUnion: return count_of(info) * sizeof(Member);
    case kEnum:
    case kFuncProto: return count_of(info) * 8;
    case kDatasec:
    case kEnum64: return count_of(info) * 12;
    case kPtr:
    case kFwd:
    case kTypedef:
    case kVolatile:
    case kConst:
    case kRestrict:
    case kFunc:
    case kFloat:
    case kTypeTag: return 0;
    default: return std::nullopt;
  }
}

[[noreturn]] void refuse(const char* what) {
  throw Error(Code::kCorrupt, std::string("the kernel's BTF ") + what,
              "take a checkpoint and try again; a kernel that was tampered with stays so");
}

template <typename T>
T load(const std::vector<std::byte>& bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

}  // namespace

Btf::Btf(std::vector<std::byte> bytes) : bytes_(std::move(bytes)) {
  if (bytes_.size() < sizeof(Header) || bytes_.size() > kBtfBytesMax) refuse("is too short or too long");
  const auto header = load<Header>(bytes_, 0);
  if (header.magic != kMagic || header.version != 1) refuse("does not begin as BTF does");
  const std::uint64_t types = std::uint64_t{header.header_bytes} + header.types_at, end = types + header.types_bytes;
  const std::uint64_t strings = std::uint64_t{header.header_bytes} + header.strings_at;
  if (header.header_bytes < sizeof(Header) || end > bytes_.size() || strings + header.strings_bytes > bytes_.size() ||
      header.strings_bytes == 0 || bytes_[strings + header.strings_bytes - 1] != std::byte{0}) {
    refuse("names parts that are not there");
  }
  strings_ = {reinterpret_cast<const char*>(bytes_.data()) + strings, header.strings_bytes};
  std::vector<std::uint32_t> structures;
  places_.reserve(header.types_bytes / kTypeBytesUsual);
  for (std::uint64_t at = types; at < end;) {
    if (end - at < sizeof(Type)) refuse("ends within a type");
    const auto type = load<Type>(bytes_, at);
    const auto behind = bytes_behind(type.info);
    if (!behind || end - at - sizeof(Type) < *behind) refuse("has a type that cannot be");
    places_.push_back(static_cast<std::uint32_t>(at));
    const std::uint32_t kind = kind_of(type.info);
    if ((kind == kStruct || kind == kUnion) && type.name != 0) structures.push_back(static_cast<std::uint32_t>(places_.size()));
    at += sizeof(Type) + *behind;
  }
  structures_ = NameIndex(structures.size());
  for (const std::uint32_t number : structures) structures_.add(number, [this](std::uint32_t one) { return name_of(one); });
}

std::string_view Btf::string_at(std::uint32_t offset) const {
  if (offset >= strings_.size()) return {};
  return strings_.data() + offset;  // the last byte of them is zero
}

std::optional<Btf::Type> Btf::type_at(std::uint32_t number) const {
  if (number == 0 || number > places_.size()) return std::nullopt;
  return load<Type>(bytes_, places_[number - 1]);
}

std::optional<std::int32_t> Btf::enumerator(std::string_view enumeration, std::string_view name) const {
  for (const std::uint32_t place : places_) {
    const auto type = load<Type>(bytes_, place);
    if (kind_of(type.info) != kEnum || string_at(type.name) != enumeration) continue;
    for (std::uint32_t i = 0; i < count_of(type.info); ++i) {
      const auto one = load<Enumerator>(bytes_, place + sizeof(Type) + i * sizeof(Enumerator));
      if (string_at(one.name) == name) return one.value;
    }
  }
  return std::nullopt;
}

std::optional<std::uint32_t> Btf::without_qualifiers(std::uint32_t number) const {
  for (unsigned depth = 0; depth < kDepthMax; ++depth) {
    const auto type = type_at(number);
    if (!type) return std::nullopt;
    switch (kind_of(type->info)) {
      case kTypedef:
      case kVolatile:
      case kConst:
      case kRestrict:
      case kTypeTag: number = type->size_or_type; break;
      default: return number;
    }
  }
  return std::nullopt;
}

std::string_view Btf::name_of(std::uint32_t number) const { return string_at(type_at(number)->name); }

std::optional<std::uint32_t> Btf::find(std::string_view name) const {
  return structures_.find(name, [this](std::uint32_t one) { return name_of(one); });
}

// `member` has no dot in it.
std::optional<Field> Btf::field_in(std::uint32_t number, std::string_view member, unsigned depth, std::size_t& looks) const {
  const auto type = type_at(number);
  if (!type || depth > kDepthMax || (kind_of(type->info) != kStruct && kind_of(type->info) != kUnion)) return std::nullopt;
  for (std::uint32_t i = 0; i < count_of(type->info) && looks != 0; ++i, --looks) {
    const auto one = load<Member>(bytes_, places_[number - 1] + sizeof(Type) + i * sizeof(Member));
    const std::uint32_t bits = has_bit_fields(type->info) ? one.offset & 0xff'ffff : one.offset;
    const bool is_bit_field = has_bit_fields(type->info) && one.offset >> 24 != 0;
    if (is_bit_field || bits % 8 != 0) continue;
    const std::string_view name = string_at(one.name);
    if (name == member) return Field{bits / 8, one.type};
    if (!name.empty()) continue;
    const auto inside = without_qualifiers(one.type);
    const auto found = inside ? field_in(*inside, member, depth + 1, looks) : std::nullopt;
    if (found) return Field{bits / 8 + found->offset, found->type};
  }
  return std::nullopt;
}

std::optional<Field> Btf::field(std::string_view name, std::string_view member) const {
  auto structure = find(name);
  Field out;
  std::size_t looks = kLooksMax;
  for (;;) {
    if (!structure) return std::nullopt;
    const std::size_t dot = member.find('.');
    const auto found = field_in(*structure, member.substr(0, dot), 0, looks);
    if (!found) return std::nullopt;
    out = {out.offset + found->offset, found->type};
    if (dot == std::string_view::npos) return out;
    member.remove_prefix(dot + 1);
    structure = without_qualifiers(found->type);
  }
}

std::uint64_t Btf::size_of(std::uint32_t type) const {
  std::uint64_t times = 1;
  for (unsigned depth = 0; depth < kDepthMax; ++depth) {
    const auto number = without_qualifiers(type);
    const auto found = number ? type_at(*number) : std::nullopt;
    if (!found) return 0;
    switch (kind_of(found->info)) {
      case kInt:
      case kStruct:
      case kUnion:
      case kEnum:
      case kEnum64:
      case kFloat: return times * found->size_or_type;
      case kPtr: return times * 8;
      case kArray: {
        const auto array = load<Array>(bytes_, places_[*number - 1] + sizeof(Type));
        if (array.count != 0 && times > UINT32_MAX / array.count) return 0;
        times *= array.count;
        type = array.type;
        break;
      }
      default: return 0;
    }
  }
  return 0;
}

}  // namespace mhv::introspection
