// Reads a kernel's structures, for one check.
#pragma once

#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "introspection/kernel.h"

namespace mhv::integrity {

using introspection::GuestPhys;
using introspection::GuestVirt;
using introspection::Kernel;
using introspection::PhysRange;

// Of five levels of page tables; of four it begins later.
inline constexpr std::uint64_t kKernelSpace = 0xff00'0000'0000'0000;

// A part of a guest's addresses.
struct Range {
  GuestVirt start;
  std::uint64_t bytes = 0;
  bool has(GuestVirt at) const { return at.value - start.value < bytes; }
  GuestVirt end() const { return start + bytes; }
};

// Not thread-safe: it remembers translations. The Kernel outlives it.
class Reader {
 public:
  explicit Reader(const Kernel& kernel) : kernel_(kernel), look_(kernel.space()) {}

  const Kernel& kernel() const { return kernel_; }
  bool read(GuestVirt at, std::span<std::byte> out) { return look_.read(at, out); }
  // nullopt: nothing is there.
  template <typename T>
  std::optional<T> get(GuestVirt at) {
    T value;
    if (!look_.read(at, std::as_writable_bytes(std::span(&value, 1)))) return std::nullopt;
    return value;
  }
  std::optional<GuestVirt> pointer(GuestVirt at) { return get<GuestVirt>(at); }
  // 0: nothing is there either.
  std::uint64_t word(GuestVirt at) { return get<std::uint64_t>(at).value_or(0); }
  // A name of the kernel's, at most 63 bytes, that can be printed.
  std::string name(GuestVirt at) {
    std::string text = kernel_.space().read_string(at, 63).value_or("");
    for (char& c : text) c = c >= ' ' && c <= '~' ? c : '?';
    return text;
  }

 private:
  const Kernel& kernel_;
  introspection::Look look_;
};

// A structure that was read at once.
class Structure {
 public:
  bool read(Reader& reader, GuestVirt at, std::size_t bytes) {
    bytes_.resize(bytes);
    return reader.read(at, bytes_);
  }
  template <typename T>
  T get(std::size_t offset) const {
    T value{};
    if (offset + sizeof value <= bytes_.size()) std::memcpy(&value, bytes_.data() + offset, sizeof value);
    return value;
  }
  GuestVirt pointer(std::size_t offset) const { return get<GuestVirt>(offset); }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace mhv::integrity
