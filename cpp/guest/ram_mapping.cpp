#include "guest/ram_mapping.h"

#include <fcntl.h>
#include <sys/mman.h>

namespace mhv::guest {
namespace {

constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, Linux 5.14

bool cannot_shrink(int file) {
  const int seals = ::fcntl(file, F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_SHRINK) != 0;
}

}  // namespace

RamMapping::RamMapping(const Ram& ram) : ram_(ram), mapped_(ram.blocks().size()) {
  for (std::size_t i = 0; i < mapped_.size(); ++i) {
    const RamBlock& block = ram.blocks()[i];
    if (!block.shared || !cannot_shrink(block.fd)) continue;
    void* at = ::mmap(nullptr, block.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, block.fd, static_cast<off_t>(block.fd_offset));
    if (at != MAP_FAILED) mapped_[i] = {static_cast<std::byte*>(at), block.bytes};
  }
}

RamMapping::~RamMapping() {
  for (const Mapped& mapped : mapped_) {
    if (mapped.start != nullptr) ::munmap(mapped.start, mapped.bytes);
  }
}

std::byte* RamMapping::at(PageNo page) const {
  const RamBlock& block = ram_.block_of(page);
  std::byte* const start = mapped_[static_cast<std::size_t>(&block - ram_.blocks().data())].start;
  return start == nullptr ? nullptr : start + (std::size_t{page.value - block.first.value} << kPageShift);
}

bool RamMapping::populate(PageRange range) {
  std::byte* const start = at(range.first);
  return start != nullptr && ::madvise(start, std::size_t{range.count} << kPageShift, kPopulateWrite) == 0;
}

}  // namespace mhv::guest
