// QEMU's migration stream and libvirt's save image, written by the engine (QEMU docs/devel/migration; libvirt
// src/qemu/qemu_saveimage.h for the layout). Nothing of either is linked.
//
//   stream (big endian)  "QEVM"  u32 3                                    header
//                        07  u32 length  machine name                     configuration section
//                        [01 ram: list of blocks] [03 ram: pages]         RAM, see write_full_stream
//                        04 device sections ...  00                       as xen-save-devices-state wrote them
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/units.h"

namespace mhv::guest {

inline constexpr std::size_t kDeviceStateMax = 64u << 20;

struct StreamBlock {
  std::string name;
  std::uint64_t bytes = 0;
};

// header + configuration section + device sections: what `snapshot-load` and a RAM-less `-incoming` take.
// Checks `state` (output of xen-save-devices-state): magic, version, a plausible first section, EOF at the end; throws
// kCorrupt. `machine` is the canonical machine type ("pc-i440fx-10.0"); kInvalid for what cannot be one.
std::vector<std::byte> device_stream(const std::string& machine, std::span<const std::byte> state);

// Writes a whole incoming stream: header, configuration, RAM (every page of every block, zero pages as such), devices.
// `page(block, index, out)` returns false when the page is all zeros. Throws what `write` throws.
void write_full_stream(const std::function<void(std::span<const std::byte>)>& write, const std::string& machine,
                       std::span<const StreamBlock> blocks,
                       const std::function<bool(std::size_t block, std::uint64_t index, std::span<std::byte, kPageSize> out)>& page,
                       std::span<const std::byte> state);

// The header of a libvirt save image (LibvirtQemudSave, version 2, uncompressed, domain running) up to where the stream begins.
std::vector<std::byte> save_image_header(const std::string& domain_xml);

// A qcow2 image, in memory, whose only internal snapshot `tag` holds `stream` as VM state: what `snapshot-load` reads.
std::vector<std::byte> vmstate_image(const std::string& tag, std::span<const std::byte> stream);

}  // namespace mhv::guest
