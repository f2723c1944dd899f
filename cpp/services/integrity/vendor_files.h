// The vendors' kernels that an operator has put into a folder, one a file (vendor_image.h).
#pragma once

#include <memory>
#include <string>

#include "integrity/vendor_image.h"

namespace mhv::integrity {

inline constexpr const char* kVendorFolder = "/data";  // as a layer sees it

struct VendorFile {
  std::shared_ptr<const VendorImage> image;  // nullptr: there is none of that kernel
  std::string name;                          // of the file; without one, why
};

// Never throws for what is in the folder: `name` says what is wrong with it.
VendorFile find_vendor_file(const std::string& folder, const std::string& banner);

}  // namespace mhv::integrity
