// Where a guest's memory is: a descriptor that the engine gave, or a device's resource file in a service VM.
#pragma once

#include <boost/interprocess/mapped_region.hpp>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/fd.h"

namespace mhv::sdk {

// Thread-safe.
class MemoryFile {
 public:
  // By pread(): a hole of the guest's memory is not allocated by looking at it, as it would be through a mapping.
  explicit MemoryFile(Fd file) : file_(std::move(file)) {}
  // A device's memory cannot be read in another way.
  static MemoryFile map(Fd file);

  // False: the file ends before.
  bool read(std::uint64_t offset, std::span<std::byte> out) const;

 private:
  Fd file_;
  boost::interprocess::mapped_region region_;  // may be empty
};

}  // namespace mhv::sdk
