// A guest's memory, as its own processor names it.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

namespace mhv::introspection {

// Where the guest's processor finds something in RAM, behind its page tables.
struct GuestPhys {
  std::uint64_t value = 0;
  friend auto operator<=>(GuestPhys, GuestPhys) = default;
  friend GuestPhys operator+(GuestPhys a, std::uint64_t bytes) { return {a.value + bytes}; }
  friend std::uint64_t operator-(GuestPhys a, GuestPhys b) { return a.value - b.value; }
};

// Where the guest's programs and kernel find it.
struct GuestVirt {
  std::uint64_t value = 0;
  friend auto operator<=>(GuestVirt, GuestVirt) = default;
  friend GuestVirt operator+(GuestVirt a, std::uint64_t bytes) { return {a.value + bytes}; }
  friend std::uint64_t operator-(GuestVirt a, GuestVirt b) { return a.value - b.value; }
};

struct PhysRange {
  GuestPhys start;
  std::uint64_t bytes = 0;
};

// The narrow seam below everything that looks into a guest: its live memory, a checkpoint's, or a test's. Thread-safe for readers.
class PhysicalMemory {
 public:
  virtual ~PhysicalMemory() = default;
  // False, and `out` is whatever: not all of it is RAM. Whatever is read may change at any moment, and may be made to mislead.
  virtual bool read(GuestPhys at, std::span<std::byte> out) const = 0;
  // All RAM, by address.
  virtual std::vector<PhysRange> ranges() const = 0;
};

template <typename T>
std::optional<T> read_as(const PhysicalMemory& memory, GuestPhys at) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  if (!memory.read(at, std::as_writable_bytes(std::span(&value, 1)))) return std::nullopt;
  return value;
}

}  // namespace mhv::introspection
