// Where a guest's memory is: a descriptor that the engine gave, or devices' resource files in a service VM.
#pragma once

#include <boost/interprocess/mapped_region.hpp>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/fd.h"

namespace mhv::sdk {

// Thread-safe.
class MemoryFile {
 public:
  // By pread(): a hole of the guest's memory is not allocated by looking at it, as it would be through a mapping.
  explicit MemoryFile(Fd file) : file_(std::move(file)) {}
  // One behind the other: a device has a power of two of memory, which cannot be read in another way.
  static MemoryFile map(std::span<const Fd> files);

  // False: the file ends before.
  bool read(std::uint64_t offset, std::span<std::byte> out) const;

 private:
  MemoryFile() = default;
  bool read_mapped(std::uint64_t offset, std::span<std::byte> out) const;

  Fd file_;  // or
  std::vector<boost::interprocess::mapped_region> regions_;
};

}  // namespace mhv::sdk
