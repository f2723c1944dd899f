// The table of system calls of a guest's kernel. Where it has x64_sys_call, system calls go through that function's code:
// there the table says little, and that code is a matter of integrity.
#pragma once

#include <string>
#include <vector>

#include "introspection/kernel.h"

namespace mhv::introspection {

struct Syscall {
  unsigned number = 0;
  GuestVirt at;
  std::string symbol;  // "__x64_sys_read"; "name+0x10": within another; "[module]": in one; "": in nothing that is known
};

// Throws kUnsupported, kBusy.
std::vector<Syscall> list_syscalls(const Kernel& kernel);

}  // namespace mhv::introspection
