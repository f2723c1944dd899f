// The modules of a guest's kernel, as it lists them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "introspection/walk.h"

namespace mhv::introspection {

struct Module {
  std::string name;
  GuestVirt at;             // its code
  std::uint64_t bytes = 0;  // all of it, as /proc/modules says
  std::string_view state;   // "live", "loading", "unloading", "unformed" or "unknown"
  GuestVirt structure;      // its struct module

  struct Part {
    GuestVirt at;
    std::uint64_t bytes = 0;
  };
  std::vector<Part> parts;
  bool holds(GuestVirt address) const;
};

// Thread-safe. The Kernel outlives it.
class Modules {
 public:
  // Throws kUnsupported.
  explicit Modules(const Kernel& kernel);

  // The one that was loaded last is the first. Throws kBusy.
  std::vector<Module> list() const;

 private:
  Module read(Walk& walk, GuestVirt module) const;

  const Kernel& kernel_;
  GuestVirt head_;
  std::uint32_t links_, name_, state_;
  struct Where {
    std::uint32_t at, bytes;  // in a struct module: a pointer, and a number of 4 bytes
  };
  std::vector<Where> parts_;  // the first is the code
};

}  // namespace mhv::introspection
