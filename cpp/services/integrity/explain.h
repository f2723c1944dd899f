// Puts names to what was changed in measured memory.
#pragma once

#include <vector>

#include "integrity/code_map.h"
#include "integrity/finding.h"
#include "integrity/measured.h"
#include "integrity/pointers.h"

namespace mhv::integrity {

// Not thread-safe. What it is made from outlives it.
class Explainer {
 public:
  Explainer(Reader& reader, const CodeMap& map, const PointerTable& pointers, std::vector<Finding>& out)
      : reader_(reader), map_(map), pointers_(pointers), out_(out) {}

  void kernel_text(const Changes& changes, SiteJudge& judge);
  void kernel_rodata(const Changes& changes);
  void module(const std::string& name, bool text, const Changes& changes, SiteJudge& judge);

 private:
  void moved(const Changes& changes, const std::string& where);
  void sites(const Changes& changes, SiteJudge& judge, const char* kind);
  void pointer(GuestVirt at, GuestVirt was);
  std::string bytes_at(GuestVirt at);

  Reader& reader_;
  const CodeMap& map_;
  const PointerTable& pointers_;
  std::vector<Finding>& out_;
};

// The entries of the tables of system calls that are no system calls' functions: what was wrong before it was trusted.
void check_syscall_tables(Reader& reader, const Image& image, const CodeMap& map, std::vector<Finding>& out);
// Members of structures of function pointers, by their names, that lead to nobody's code.
void check_operations(Reader& reader, const Image& image, CodeMap& map, std::vector<Finding>& out);

}  // namespace mhv::integrity
