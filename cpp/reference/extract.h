// The kernel that a vendor's package holds: what integrity compares a guest's with (integrity/vendor_image.h).
//
//   linux-image-*.deb    an ar of tars, data.tar.* of which holds ./boot/vmlinuz-*
//   vmlinuz              a bzImage: at 0x1f1 how many sectors its start takes, at 0x248 where behind them its payload begins and how long
//                        it is; that is compressed, and but for gzip's ends with 4 bytes of how long it is without
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace mhv::reference {

// `file`: a package, or its vmlinuz. Throws kInvalid: it is neither, or holds no such kernel; kCorrupt: it is damaged.
std::vector<std::byte> extract_kernel(std::span<const std::byte> file);

// Writes what a package of that path holds into the folder, by the package's name, for all to read. Returns the new file's path and the
// kernel's banner.
struct Written {
  std::string path, banner;
};
Written write_reference(const std::string& package, const std::string& folder);

}  // namespace mhv::reference
