// What a check of a guest's kernel found.
#pragma once

#include <string>

#include "introspection/memory.h"

namespace mhv::integrity {

inline constexpr std::size_t kFindingsMax = 256;  // of one check

struct Finding {
  std::string kind;     // stable, for machines: see doc/integrity.rst
  std::string subject;  // the symbol, process, module or processor
  std::string detail;   // what it was and what it is
  introspection::GuestVirt address;
  bool alarm = true;  // false: a kernel does that by itself, and it is told once
};

}  // namespace mhv::integrity
