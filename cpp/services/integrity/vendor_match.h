// Whether bytes of a guest's code are what a vendor's kernel has there, or can have made of it (vendor_sites.h).
#pragma once

#include <array>
#include <vector>

#include "integrity/vendor_sites.h"

namespace mhv::integrity {

// Not thread-safe. What it is made from outlives it.
class VendorMatch {
 public:
  using Bytes = std::span<const std::byte>;

  // `moved`: how far the guest's kernel is from where it was linked to be.
  VendorMatch(const VendorImage& image, std::uint64_t moved);

  // The text, as it is before the kernel changes it.
  const VendorImage::Section& text() const { return text_; }
  const std::vector<VendorSite>& sites() const { return sites_; }
  GuestVirt in_guest(LinkedAt at) const { return {at.value + moved_}; }
  LinkedAt linked(GuestVirt at) const { return {at.value - moved_}; }

  // `now` is what stands at that part of the text. For one check, of whose memory `reader`, and of whose sites `judge` is.
  bool is_right(Reader& reader, SiteJudge& judge, LinkedAt at, Bytes now) const;

 private:
  // Code as the vendor has it at `at`, and what stands at `placed` in the guest.
  struct Part {
    LinkedAt at;
    GuestVirt placed;
    Bytes code, now;
    bool is_copy = false;  // an alternative, which is not where it was linked to be
  };
  class Walk;

  const VendorImage& image_;
  std::uint64_t moved_;
  std::vector<std::byte> text_bytes_, replacement_bytes_;
  VendorImage::Section text_, replacements_;
  std::vector<VendorSite> sites_;
  std::vector<LinkedAt> return_thunks_;
  std::array<LinkedAt, 16> thunks_{};  // by the number of the register
};

}  // namespace mhv::integrity
