// Writes to the disks of a stopped guest, through the guest's own devices: QEMU lets nobody else write a disk in use.
//
// HMP's qemu-io is what does it, and it tells nobody how it went (it prints to QEMU's standard output). So whoever writes lets a
// DiskChanges watch, and compares its copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "guest/machine.h"

namespace mhv::guest {

// One QEMU, one thread at a time; `qmp` outlives it. A QEMU that refuses or vanishes: as Qmp::call().
class DiskWriter {
 public:
  static constexpr std::size_t kBytesMax = 1u << 20;  // of one write()

  // Throws kInvalid when a disk is no device's.
  DiskWriter(Qmp& qmp, std::span<const DiskNode> disks);
  ~DiskWriter();
  DiskWriter(const DiskWriter&) = delete;
  DiskWriter& operator=(const DiskWriter&) = delete;

  // Throws kUnsupported when QEMU cannot read what it is to write (a host that confines it may forbid that); tries it out on memory.
  void probe();
  // As it was at the last look(): a revert to a snapshot may change it.
  std::uint64_t bytes_of(const DiskNode& disk) const;
  void look();  // the constructor did
  // At most kBytesMax, within the disk.
  void write(const DiskNode& disk, std::uint64_t offset, std::span<const std::byte> data);
  void flush(const DiskNode& disk);

 private:
  struct Device {
    std::string path;
    std::uint64_t bytes = 0;
  };
  void command(const std::string& to, const std::string& text);
  void write_to(const std::string& to, std::uint64_t offset, std::span<const std::byte> data);

  Qmp& qmp_;
  const std::vector<DiskNode> disks_;
  std::map<std::string, Device> devices_;  // by node
  Fd memory_;                              // what is to be written
  std::string source_;                     // the path by which QEMU opens it
};

}  // namespace mhv::guest
