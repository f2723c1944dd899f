#include "guest/missing.h"

#include <algorithm>

#include "base/error.h"
#include "guest/missing_sys.h"
#include "guest/page_ranges.h"

namespace mhv::guest {
namespace {

PageRange pages_at(const RamBlock& block, std::uint64_t offset, std::uint64_t bytes) {
  return {{block.first.value + static_cast<std::uint32_t>(offset >> kPageShift)}, static_cast<std::uint32_t>(bytes >> kPageShift)};
}

}  // namespace

std::vector<PageRange> MissingPages::present() const {
  std::vector<PageRange> found;
  for (const RamBlock& block : ram_.blocks()) {
    if (block.shared) {
      for (const auto& data : sys::data_of(block.fd, block.fd_offset, block.bytes))
        found.push_back(pages_at(block, data.offset - block.fd_offset, data.bytes));
      continue;
    }
    std::vector<sys::Region> regions;
    sys::pagemap_scan(pagemap_.get(), block.host, block.bytes, sys::Select::kPresentOrSwapped, false, regions);
    for (const auto& region : regions) found.push_back(pages_at(block, region.start - block.host, region.bytes));
  }
  normalize(found);  // the kernel names some ranges twice when they are many
  if (!sys::pagemap_alive(pagemap_.get(), ram_.blocks().front().host)) throw Error(Code::kGone, "the guest's QEMU has ended");
  return found;
}

void MissingPages::arm() {
  for (const RamBlock& block : ram_.blocks()) {
    sys::uffd_register_missing(uffd_.get(), block.host, block.bytes);
    if (!block.shared) continue;
    std::uint64_t at = block.fd_offset;
    for (const auto& data : sys::data_of(block.fd, block.fd_offset, block.bytes)) {
      if (data.offset > at) sys::punch(block.fd, at, data.offset - at);
      at = data.offset + data.bytes;
    }
    if (at < block.fd_offset + block.bytes) sys::punch(block.fd, at, block.fd_offset + block.bytes - at);
  }
}

void MissingPages::disarm_private() {
  for (const RamBlock& block : ram_.blocks()) {
    if (!block.shared) sys::uffd_end_missing(uffd_.get(), block.host, block.bytes, false);
  }
}

void MissingPages::disarm_shared() {
  for (const RamBlock& block : ram_.blocks()) {
    if (block.shared) sys::uffd_end_missing(uffd_.get(), block.host, block.bytes, true);
  }
}

bool MissingPages::has_shared() const {
  return std::any_of(ram_.blocks().begin(), ram_.blocks().end(), [](const RamBlock& block) { return block.shared; });
}

std::uint32_t MissingPages::fill(PageNo first, std::span<const std::byte> content, bool clean) {
  std::uint64_t bytes = 0;
  sys::uffd_copy(uffd_.get(), ram_.host_of(first), content, clean, &bytes);
  return static_cast<std::uint32_t>(bytes >> kPageShift);
}

std::vector<PageNo> MissingPages::faults() {
  std::vector<HostVirt> addresses;
  sys::uffd_read_faults(uffd_.get(), addresses);
  std::vector<PageNo> pages;
  for (const HostVirt address : addresses) pages.push_back(ram_.pages_of(address, kPageSize).first);
  return pages;
}

void MissingPages::wait(int wake_fd, int timeout_ms) const { sys::wait_for_fault(uffd_.get(), wake_fd, timeout_ms); }

void MissingPages::wake_all() {
  for (const RamBlock& block : ram_.blocks()) sys::uffd_wake(uffd_.get(), block.host, block.bytes);
}

}  // namespace mhv::guest
