// Says whether the kernel of a guest is still the one that was trusted.
//
//   const introspection::Kernel kernel(memory, paging);    // the guest has started
//   Checker checker(kernel, registers);                    // the trusted moment
//   for each epoch: checker.check(registers, &written)     // what is wrong now
//
// A guest that is stopped meanwhile gives the exact answer. One that runs may be seen in the middle of a change; what that could be
// mistaken for is looked at again, or told only when it is there at the next check too.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "integrity/finding.h"
#include "integrity/measured.h"
#include "integrity/registers.h"
#include "integrity/vendor_image.h"

namespace mhv::integrity {

// Not thread-safe. The Kernel outlives it.
class Checker {
 public:
  // What `kernel` is now is what it ought to be. `registers`: of each processor. Throws kBusy: the guest is starting, try again;
  // kUnsupported: this kernel cannot be checked. `vendor`: what the vendor built, of which the text has to be; nullptr: not known.
  Checker(const Kernel& kernel, std::span<const Registers> registers, std::shared_ptr<const VendorImage> vendor = nullptr);
  ~Checker();
  Checker(Checker&&) noexcept;

  // All that is wrong, and once each what is worth a note. `written`: the pages that were written since the last check; nullptr: not known,
  // everything is looked at. Takes a bounded time, whatever the guest has written.
  std::vector<Finding> check(std::span<const Registers> registers, const Written* written = nullptr);

  // What of it this kernel gives no way to check, each with the reason.
  const std::vector<std::string>& unchecked() const;
  // Pages whose content is measured, and function pointers that are.
  std::size_t measured_pages() const;
  std::size_t measured_pointers() const;
  // Places where the vendor's text may have been changed; 0: it was not compared.
  std::size_t vendor_sites() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mhv::integrity
