// What runs in a kernel by leave of its administrator: probes and BPF programs. No findings by themselves; a rootkit may be among them.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "integrity/reader.h"

namespace mhv::integrity {

struct Probe {
  GuestVirt at;
  GuestVirt handler;               // called before the instruction; 0: only one behind it
  bool jumps = false;              // optimised: five bytes were changed, not one
  bool by_ftrace = false;          // none were
  std::array<std::byte, 5> was{};  // what stood there
};
// Thread-safe. The Kernel outlives it.
class Probes {
 public:
  // Throws kUnsupported.
  explicit Probes(const Kernel& kernel);
  std::vector<Probe> list(Reader& reader) const;

 private:
  GuestVirt table_;
  std::uint32_t links_, at_, handler_, opcode_, flags_, copied_;
};

struct BpfProgram {
  std::uint32_t id = 0, type = 0;  // enum bpf_prog_type
  std::string name;
  GuestVirt code;
};
// Throws kUnsupported. What cannot be followed is left out.
std::vector<BpfProgram> bpf_programs(Reader& reader);

}  // namespace mhv::integrity
