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

Tracker::Tracker(Fd uffd, Fd pagemap, const Ram& ram, bool fresh, bool two_step)
    : uffd_(std::move(uffd)), pagemap_(std::move(pagemap)), ram_(ram), two_step_(two_step), unsure_(fresh), missing_(ram.blocks().size()) {
  if (fresh) {
    sys::uffd_handshake(uffd_.get());
    for (const auto& block : ram_.blocks()) sys::uffd_register(uffd_.get(), block.host, block.bytes);
  }
  // Also proves that every block is registered, by whomever.
  for (const auto& block : ram_.blocks()) written(block, block.host, block.bytes, false);
  check_alive();
}

Tracker::~Tracker() = default;

std::vector<PageRange> Tracker::written(const RamBlock& block, HostVirt start, std::uint64_t bytes, bool protect) const {
  std::vector<sys::Region> regions;
  sys::pagemap_scan(pagemap_.get(), start, bytes, sys::Select::kWritten, protect, regions);
  std::vector<PageRange> pages;
  for (const auto& region : regions) pages.push_back(to_pages(block, region.start, region.bytes));
  return pages;
}

// Of private memory, what is in swap has a page table entry of its own, which tells whether it was written.
std::vector<PageRange> Tracker::missing(const RamBlock& block) const {
  std::vector<sys::Region> regions;
  sys::pagemap_scan(pagemap_.get(), block.host, block.bytes, sys::Select::kNotPresent, false, regions);
  std::vector<PageRange> pages;
  for (const auto& region : regions) {
    if (block.shared || !region.swapped) pages.push_back(to_pages(block, region.start, region.bytes));
  }
  normalize(pages);
  return pages;
}

// The two steps for KVM. What was seen as written stays so until it is protected here, and more may come: the
// protecting scans have the last word.
std::vector<PageRange> Tracker::written_by_spans(const RamBlock& block) const {
  std::vector<PageRange> spans;
  for (const auto& range : written(block, block.host, block.bytes, false)) {
    if (!spans.empty() && range.first.value - (spans.back().first.value + spans.back().count) <= kMergeGapPages) {
      spans.back().count = range.first.value + range.count - spans.back().first.value;
    } else {
      spans.push_back(range);
    }
  }
  std::vector<PageRange> found;
  for (const auto& span : spans) append(found, written(block, host_of(block, span.first), std::uint64_t{span.count} << kPageShift, true));
  return found;
}

std::vector<PageRange> Tracker::collect_block(std::size_t index) {
  const RamBlock& block = ram_.blocks()[index];
  std::vector<PageRange> found = two_step_ ? written_by_spans(block) : written(block, block.host, block.bytes, true);
  std::vector<PageRange> now = missing(block);
  const bool known = missing_[index].has_value();
  const std::vector<PageRange> gone = known ? subtract(now, *missing_[index]) : now;
  // What was mapped gets a marker, so that a huge page does not take its place; what never was costs no page table.
  for (const auto& range : known ? gone : std::vector<PageRange>{}) {
    sys::uffd_protect(uffd_.get(), host_of(block, range.first), std::uint64_t{range.count} << kPageShift);
  }
  append(found, gone);
  missing_[index] = std::move(now);
  normalize(found);
  return found;
}

std::vector<PageRange> Tracker::collect() {
  std::vector<PageRange> found;
  if (unsure_) {
    reset();
    for (const auto& block : ram_.blocks()) found.push_back(to_pages(block, block.host, block.bytes));
    return found;
  }
  unsure_ = true;
  for (std::size_t i = 0; i < ram_.blocks().size(); ++i) append(found, collect_block(i));
  check_alive();
  unsure_ = false;
  return found;
}

std::uint64_t Tracker::pending() const {
  check_alive();
  if (unsure_) return ram_.pages();
  std::uint64_t pages = 0;
  for (const auto& block : ram_.blocks()) pages += count_pages(written(block, block.host, block.bytes, false));
  return pages;
}

void Tracker::reset() {
  unsure_ = true;
  for (std::size_t i = 0; i < ram_.blocks().size(); ++i) {
    const RamBlock& block = ram_.blocks()[i];
    written(block, block.host, block.bytes, true);
    missing_[i] = missing(block);
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
