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
  bool by_ftrace = false;          // no code was changed for it
  bool is_ending = false;          // it is not called any more, but its change may still be there
  std::array<std::byte, 5> was{};  // what stood there: one byte under int3, or five under a jump
};
// Thread-safe. The Kernel outlives it.
class Probes {
 public:
  // Throws kUnsupported.
  explicit Probes(const Kernel& kernel);
  std::vector<Probe> list(Reader& reader) const;

 private:
  void add(Reader& reader, GuestVirt probe, bool is_ending, std::vector<Probe>& out) const;

  GuestVirt table_;
  std::uint32_t links_, at_, handler_, opcode_, flags_, copied_;
  std::vector<GuestVirt> optimiser_;  // its lists
  std::uint32_t optimiser_links_ = 0, optimiser_probe_ = 0;
};

struct BpfProgram {
  std::uint32_t id = 0, type = 0;  // enum bpf_prog_type
  std::string name;
  GuestVirt code;
};
// Throws kUnsupported. What cannot be followed is left out.
std::vector<BpfProgram> bpf_programs(Reader& reader);

}  // namespace mhv::integrity
