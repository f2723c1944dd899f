// A layer in a virtual machine of its own (--service-vm): stock QEMU in mhv-jail, and in it a Linux that starts the layer's program. The
// layer's channel and what it may read of its guest are the memory of PCI devices there (QEMU's ivshmem-plain).
//
// INVARIANT: the machine has no other device that leads out of it but its console, which goes to this host's log; and the memory of the
// guest is open for reading alone, for QEMU too.
#pragma once

#include <string>
#include <vector>

#include "base/fd.h"
#include "mhvd/layer_registry.h"

namespace mhv::mhvd {

// What mhv-jail is to run.
struct JailedProgram {
  std::vector<std::string> options;  // that say which program
  std::uint32_t memory_mib = 0;
  std::uint32_t cpu_percent = 0;
  std::vector<std::string> arguments;  // of the program
  std::vector<Fd> fds;                 // that it has, from 3 on
};

// `image`: the folder with vmlinuz and initrd.gz. `fds`: the channel, then files of the guest's memory. Throws kUnsupported: there is no
// image, or the guest's memory is in too many pieces.
JailedProgram in_machine(const std::string& image, const LayerPackage& package, std::vector<Fd> fds);

// A device has a power of two of memory: a file of that many bytes as pieces of such sizes, the largest first.
std::vector<std::uint64_t> pieces_of(std::uint64_t bytes);

}  // namespace mhv::mhvd
