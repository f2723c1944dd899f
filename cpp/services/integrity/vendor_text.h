// A guest's kernel text against its vendor's: what was changed before anybody looked.
#pragma once

#include <memory>
#include <vector>

#include "integrity/finding.h"
#include "integrity/inventory.h"
#include "integrity/measured.h"
#include "integrity/vendor_match.h"

namespace mhv::integrity {

// Not thread-safe. `kernel` outlives it.
class VendorText {
 public:
  // Throws kUnsupported: the guest's kernel is not where one that the vendor built can be, or has other calls everywhere.
  VendorText(const Kernel& kernel, std::shared_ptr<const VendorImage> image);

  // The whole of it, once. Throws kBusy: not all of it can be read.
  void compare(Reader& reader, SiteJudge& judge);
  // What of it was wrong, and still is; what `probes` changed is not.
  void check(Reader& reader, SiteJudge& judge, std::span<const Probe> probes, std::vector<Finding>& out);

  std::size_t sites() const { return sites_; }

 private:
  // Of the text: between sites, or as many of them as overlap.
  struct Piece {
    LinkedAt at;
    std::uint64_t bytes = 0;
  };
  std::vector<Piece> pieces() const;
  void undo(std::span<const Probe> probes, LinkedAt at, std::span<std::byte> bytes) const;

  std::shared_ptr<const VendorImage> image_;
  std::optional<VendorMatch> match_;  // for as long as something is wrong
  std::size_t sites_ = 0;
  std::vector<Piece> wrong_;
};

}  // namespace mhv::integrity
