// Where a vendor's image says that the kernel changes its code at its start, or while it runs, and with what.
//
//   return        jmp __x86_return_thunk: another of those thunks, or ret and int3              .return_sites
//   retpoline     a call or jump through a thunk: the call or jump by that register, NOPs       .retpoline_sites
//   lock          a lock prefix, which one processor alone does without (3e)                    .smp_locks
//   seal          an endbr64 that nothing jumps to: a NOP of 4 bytes                            .ibt_endbr_seal
//   indirect      a call through a pointer of pv_ops: a call of what the pointer holds          .parainstructions
//   alternative   other instructions, for other processors, and NOPs                            .altinstructions
//   constant      a number, which is what a variable holds                                      runtime_ptr_*, runtime_shift_*
//   own           what the kernel changes while it runs (sites.h)                               __mcount_loc, __jump_table, static calls
#pragma once

#include <vector>

#include "integrity/sites.h"
#include "integrity/vendor_image.h"

namespace mhv::integrity {

struct VendorSite {
  enum class Kind : std::uint8_t { kReturn, kRetpoline, kLock, kSeal, kIndirect, kAlternative, kConstant, kOwn };
  LinkedAt at;
  std::uint32_t bytes = 0;
  Kind kind = Kind::kReturn;
  Site::Kind own = Site::Kind::kJump;
  LinkedAt other;                 // an alternative's code; a constant's variable; an own site's target
  std::uint32_t other_bytes = 0;  // of an alternative
};

// Sorted by `at`; of the text, and of the code of alternatives. Throws kCorrupt.
std::vector<VendorSite> vendor_sites(const VendorImage& image);

}  // namespace mhv::integrity
