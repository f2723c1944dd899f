// A guest's shared memory, mapped for writing: pages lie scattered, and a system call for each takes longer than its copy.
//
// INVARIANT: nothing is written through the mapping but what populate() has brought in, and only files that cannot shrink are
// mapped (F_SEAL_SHRINK, which QEMU's memfd has). So no QEMU, however it ends, turns an access into SIGBUS.
#pragma once

#include <cstddef>
#include <vector>

#include "guest/ram.h"

namespace mhv::guest {

// One thread at a time; `ram` outlives it.
class RamMapping {
 public:
  // Maps what it can. Never throws for what it cannot: those pages are not populated, and want Ram::write().
  explicit RamMapping(const Ram& ram);
  ~RamMapping();
  RamMapping(const RamMapping&) = delete;
  RamMapping& operator=(const RamMapping&) = delete;

  // So that writing them meets no page fault. Holes of the file get memory: only for pages that will be written. The range may
  // not cross a block. False: write them another way.
  bool populate(PageRange range);
  // Of a populated page; nullptr where nothing is mapped.
  std::byte* at(PageNo page) const;

 private:
  struct Mapped {
    std::byte* start = nullptr;
    std::size_t bytes = 0;
  };
  const Ram& ram_;
  std::vector<Mapped> mapped_;  // by block
};

}  // namespace mhv::guest
