// Where a kernel's code and data may be: what a function pointer may lead to.
#pragma once

#include <vector>

#include "integrity/modules.h"
#include "integrity/reader.h"

namespace mhv::integrity {

// What of a kernel's image lies where. Throws kUnsupported when its symbols do not say so.
struct Image {
  explicit Image(const Kernel& kernel);
  Range text, rodata, data;  // text and rodata are never written but at their sites (sites.h)
  Range all;
};

// For one check. Not thread-safe.
class CodeMap {
 public:
  CodeMap(Reader& reader, const Image& image) : reader_(reader), image_(image) {}
  void set_modules(std::span<const Module> modules);

  // Code of the kernel or of a listed module.
  bool is_code(GuestVirt at) const;
  // Anything of these.
  bool is_own(GuestVirt at) const;
  // Code that the kernel made: compiled BPF, trampolines, what stands in for probed instructions. Walks its lists the first time.
  bool is_made(GuestVirt at);
  void forget_made() { made_.reset(); }
  // "vfs_read+0x10", "[nf_tables]+0x123", "not of the kernel or a listed module".
  std::string describe(GuestVirt at) const;

 private:
  static bool has(const std::vector<Range>& sorted, GuestVirt at);
  void find_made();
  void add_bpf();
  void add_trampolines();
  void add_trampoline(GuestVirt operations);
  void add_probe_slots(std::string_view cache);

  Reader& reader_;
  const Image& image_;
  std::vector<Range> code_, own_;
  std::vector<std::pair<Range, std::string>> names_;
  std::optional<std::vector<Range>> made_;
};

// "vfs_read+0x10", or its address where no symbol is near.
std::string describe_symbol(const Kernel& kernel, GuestVirt at);
std::string hex(std::uint64_t value);

}  // namespace mhv::integrity
