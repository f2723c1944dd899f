#include "guest/tracker.h"

#include <utility>

#include "base/error.h"
#include "guest/page_ranges.h"
#include "guest/tracker_sys.h"

namespace mhv::guest {
namespace {

constexpr std::uint32_t kMergeGapPages = 32;  // KVM: a call costs more than protecting this many pages again

PageRange to_pages(const RamBlock& block, HostVirt start, std::uint64_t bytes) {
  const std::uint64_t offset = start - block.host;
  return {{block.first.value + static_cast<std::uint32_t>(offset >> kPageShift)}, static_cast<std::uint32_t>(bytes >> kPageShift)};
}

HostVirt host_of(const RamBlock& block, PageNo page) { return block.host + (std::uint64_t{page.value - block.first.value} << kPageShift); }

void append(std::vector<PageRange>& to, const std::vector<PageRange>& from) { to.insert(to.end(), from.begin(), from.end()); }

}  // namespace

Tracker::Tracker(Fd uffd, Fd pagemap, const Ram& ram, bool fresh, bool two_step, bool (*host_swaps)())
    : uffd_(std::move(uffd)),
      pagemap_(std::move(pagemap)),
      ram_(ram),
      two_step_(two_step),
      host_swaps_(host_swaps),
      unsure_(fresh),
      mapped_(ram.blocks().size()) {
  // What an engine that was killed did of this is left as it is; a page of what it did not do counts as written.
  sys::uffd_handshake(uffd_.get());
  for (const auto& block : ram_.blocks()) sys::uffd_register(uffd_.get(), block.host, block.bytes);
  // A kernel that cannot scan is refused now.
  scan(ram_.blocks().front(), ram_.blocks().front().host, kPageSize, sys::Select::kWritten, false);
  check_alive();
}

Tracker::~Tracker() = default;

std::vector<PageRange> Tracker::scan(const RamBlock& block, HostVirt start, std::uint64_t bytes, sys::Select select, bool protect) const {
  std::vector<sys::Region> regions;
  sys::pagemap_scan(pagemap_.get(), start, bytes, select, protect, regions);
  std::vector<PageRange> pages;
  pages.reserve(regions.size());
  for (const auto& region : regions) pages.push_back(to_pages(block, region.start, region.bytes));
  return pages;
}

std::vector<PageRange> Tracker::scan(const RamBlock& block, sys::Select select, bool protect) const {
  return scan(block, block.host, block.bytes, select, protect);
}

// Protects what it returns. The two steps are for KVM: what was seen as written stays so until it is protected here, and
// more may come: the protecting scans have the last word.
std::vector<PageRange> Tracker::written(const RamBlock& block) const {
  const auto select = block.shared && host_swaps_() ? sys::Select::kNotProtected : sys::Select::kWritten;
  if (!two_step_) return scan(block, select, true);
  std::vector<PageRange> spans;
  for (const auto& range : scan(block, select, false)) {
    if (!spans.empty() && range.first.value - (spans.back().first.value + spans.back().count) <= kMergeGapPages) {
      spans.back().count = range.first.value + range.count - spans.back().first.value;
    } else {
      spans.push_back(range);
    }
  }
  std::vector<PageRange> found;
  for (const auto& span : spans) {
    append(found, scan(block, host_of(block, span.first), std::uint64_t{span.count} << kPageShift, select, true));
  }
  return found;
}

// Of private memory, what is in swap has a page table entry of its own, which tells whether it was written.
std::vector<PageRange> Tracker::mapped(const RamBlock& block) const {
  std::vector<PageRange> pages = scan(block, block.shared ? sys::Select::kPresent : sys::Select::kPresentOrSwapped, false);
  normalize(pages);
  return pages;
}

// What was mapped at the last look and is not now; everything that is not, when there was none.
std::vector<PageRange> Tracker::unmapped_since(std::size_t index) {
  const RamBlock& block = ram_.blocks()[index];
  std::vector<PageRange> now = mapped(block);
  std::vector<PageRange> gone;
  if (mapped_[index]) {
    gone = subtract(*mapped_[index], now);
    // A marker, so that a huge page does not take its place.
    for (const auto& range : gone) {
      sys::uffd_protect(uffd_.get(), host_of(block, range.first), std::uint64_t{range.count} << kPageShift);
    }
  } else {
    gone = subtract({to_pages(block, block.host, block.bytes)}, now);
  }
  mapped_[index] = std::move(now);
  return gone;
}

std::vector<PageRange> Tracker::collect(bool unmapped_too) {
  std::vector<PageRange> found;
  if (unsure_) {
    reset();
    for (const auto& block : ram_.blocks()) found.push_back(to_pages(block, block.host, block.bytes));
    return found;
  }
  unsure_ = true;
  for (std::size_t i = 0; i < ram_.blocks().size(); ++i) {
    std::vector<PageRange> pages = written(ram_.blocks()[i]);
    if (unmapped_too) append(pages, unmapped_since(i));
    normalize(pages);
    append(found, pages);
  }
  check_alive();
  unsure_ = false;
  return found;
}

std::vector<PageRange> Tracker::collect() { return collect(!pages_stay_); }

std::vector<PageRange> Tracker::collect_written() { return collect(false); }

void Tracker::reset() {
  unsure_ = true;
  for (std::size_t i = 0; i < ram_.blocks().size(); ++i) {
    written(ram_.blocks()[i]);
    if (!pages_stay_) mapped_[i] = mapped(ram_.blocks()[i]);
  }
  check_alive();
  unsure_ = false;
}

void Tracker::detach() {
  for (const auto& block : ram_.blocks()) sys::uffd_unregister(uffd_.get(), block.host, block.bytes);
}

void Tracker::check_alive() const {
  if (!sys::pagemap_alive(pagemap_.get(), ram_.blocks().front().host)) throw Error(Code::kGone, "the guest's QEMU has ended");
}

}  // namespace mhv::guest
