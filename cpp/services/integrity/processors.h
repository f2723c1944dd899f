// The registers of processors, and the gates they enter the kernel by.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "integrity/code_map.h"
#include "integrity/finding.h"
#include "integrity/registers.h"

namespace mhv::integrity {

// Thread-safe: nothing changes after it was made. The Kernel outlives it.
class Processors {
 public:
  // Throws kBusy: no processor has got far enough.
  Processors(Reader& reader, std::span<const Registers> registers);
  void check(Reader& reader, const Image& image, std::span<const Registers> registers, std::vector<Finding>& out) const;

 private:
  struct Gate {
    std::uint16_t low, selector, bits, middle;
    std::uint32_t high, reserved;
    GuestVirt handler() const { return {std::uint64_t{high} << 32 | std::uint64_t{middle} << 16 | low}; }
    friend bool operator==(const Gate&, const Gate&) = default;
  };
  static_assert(sizeof(Gate) == 16);
  static constexpr std::size_t kGates = 256;
  using Gates = std::array<Gate, kGates>;

  void check_gates(Reader& reader, const Image& image, std::vector<Finding>& out) const;
  void check_one(const Kernel& kernel, const Image& image, std::size_t number, const Registers& now, std::vector<Finding>& out) const;

  const Kernel& kernel_;
  GuestVirt entry_;  // of system calls; 0: this kernel does not name it
  Registers trusted_;
  Gates gates_;
};

}  // namespace mhv::integrity
