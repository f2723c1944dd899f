// A checkpoint as a libvirt save image, which plain `virsh restore` takes, its memory as an ELF core, and its disks as plain images.
#pragma once

#include <string>
#include <string_view>

#include "checkpoint/checkpointer.h"
#include "store/store.h"

namespace mhv::checkpoint {

// The domain XML without what only nova-mhv put into it: its monitor on QEMU's command line.
std::string without_own_monitor(std::string_view domain_xml);

// Writes the image to `fd` from its start; returns its length in bytes. The disks are not in it: they have snapshots
// of their own, and export_disk_changes(). Throws kNotFound, kCorrupt, kNoSpace.
std::uint64_t export_save_image(const store::Store& store, const std::string& id, int fd, const StageFn& progress);

// Writes an ELF core of the guest's memory and processors to the empty file `fd`, with holes where memory is zero; returns the file's
// length in bytes. Throws kNotFound, kCorrupt, kNoSpace, kUnsupported: where the guest has its memory is not known (guest/pc_ram.h).
std::uint64_t export_elf_core(const store::Store& store, const std::string& id, int fd, const StageFn& progress);

// `fd`: a raw image of what the snapshot of disk `target` holds. Writes into it what the disk held otherwise at the checkpoint;
// returns the number of bytes. Throws kNotFound for a disk without a snapshot, kCorrupt, kNoSpace.
std::uint64_t export_disk_changes(const store::Store& store, const std::string& id, const std::string& target, int fd);

}  // namespace mhv::checkpoint
