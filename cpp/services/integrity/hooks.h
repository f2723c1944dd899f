// Function pointers that a kernel keeps on its heap, where a rootkit puts its own: netfilter's hooks, ftrace's operations, /proc's entries.
#pragma once

#include <optional>
#include <vector>

#include "integrity/code_map.h"
#include "integrity/finding.h"
#include "integrity/reader.h"

namespace mhv::integrity {

// Each appends what leads to nobody's code. Thread-safe. The Kernel outlives them; each throws kUnsupported.

class NetfilterHooks {
 public:
  explicit NetfilterHooks(const Kernel& kernel);
  void check(Reader& reader, CodeMap& map, std::vector<Finding>& out) const;

 private:
  struct Family {
    const char* name;
    GuestVirt at;
    std::uint32_t count;
  };
  std::vector<Family> families_;
};

class FtraceOperations {
 public:
  explicit FtraceOperations(const Kernel& kernel);
  void check(Reader& reader, CodeMap& map, std::vector<Finding>& out) const;

 private:
  GuestVirt list_, end_;
  std::uint32_t function_, next_, flags_;
};

class ProcEntries {
 public:
  explicit ProcEntries(const Kernel& kernel);
  void check(Reader& reader, CodeMap& map, std::vector<Finding>& out) const;

 private:
  void check_entry(Reader& reader, CodeMap& map, GuestVirt at, const Structure& entry, std::vector<Finding>& out) const;

  GuestVirt root_, net_root_, lock_;
  std::uint32_t children_, node_, name_, operations_, inode_operations_, show_, bytes_;
};

}  // namespace mhv::integrity
