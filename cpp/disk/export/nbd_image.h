// A base image of any format that QEMU knows, with its backing files: qemu-storage-daemon opens it, and this reads it by NBD.
#pragma once

#include <memory>
#include <string>

#include "disk/base_image.h"

namespace mhv::disk {

// The export "" at a unix socket. A server that goes away is waited for, and each request sent again (they all may be): an error
// here would be an I/O error of the guest. Throws kUnavailable when it does not come back in `patience_s` seconds.
std::unique_ptr<BaseImage> open_nbd_image(const std::string& socket, unsigned patience_s = 60);

}  // namespace mhv::disk
