#include "guest/tracker.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "guest/page_ranges.h"
#include "guest/tracker_sys.h"

namespace mhv::guest {
namespace {

constexpr std::uint32_t kMergeGapPages = 32;  // KVM: a call costs more than protecting this many pages again

// What one page table maps. A region counts as written lately for so many collects: 1 s where checkpoints come 40 times a second.
constexpr std::uint32_t kRegionPages = 512;
constexpr std::uint64_t kLatelyCollects = 40;

PageRange to_pages(const RamBlock& block, HostVirt start, std::uint64_t bytes) {
  const std::uint64_t offset = start - block.host;
  return {{block.first.value + static_cast<std::uint32_t>(offset >> kPageShift)}, static_cast<std::uint32_t>(bytes >> kPageShift)};
}

HostVirt host_of(const RamBlock& block, PageNo page) { return block.host + (std::uint64_t{page.value - block.first.value} << kPageShift); }

PageRange all_of(const RamBlock& block) { return to_pages(block, block.host, block.bytes); }

void append(std::vector<PageRange>& to, const std::vector<PageRange>& from) { to.insert(to.end(), from.begin(), from.end()); }

}  // namespace

Tracker::Tracker(Fd uffd, Fd pagemap, const Ram& ram, bool fresh, bool two_step, bool (*host_swaps)())
    : uffd_(std::move(uffd)),
      pagemap_(std::move(pagemap)),
      ram_(ram),
      two_step_(two_step),
      host_swaps_(host_swaps),
      unsure_(fresh),
      mapped_(ram.blocks().size()),
      collects_(kLatelyCollects) {
  // What an engine that was killed did of this is left as it is; a page of what it did not do counts as written.
  sys::uffd_handshake(uffd_.get());
  for (const auto& block : ram_.blocks()) {
    sys::uffd_register(uffd_.get(), block.host, block.bytes);
    found_.emplace_back((block.bytes / kPageSize + kRegionPages - 1) / kRegionPages);
  }
  // A kernel that cannot scan is refused now.
  scan(ram_.blocks().front(), {ram_.blocks().front().first, 1}, sys::Select::kWritten, false);
  check_alive();
}

Tracker::~Tracker() = default;

std::vector<PageRange> Tracker::regions(std::size_t index, bool lately) const {
  const PageRange all = all_of(ram_.blocks()[index]);
  std::vector<PageRange> out;
  for (std::uint32_t region = 0; region < found_[index].size(); ++region) {
    if ((collects_ - found_[index][region] < kLatelyCollects) != lately) continue;
    const std::uint32_t offset = region * kRegionPages, count = std::min(kRegionPages, all.count - offset);
    if (!out.empty() && out.back().first.value + out.back().count == all.first.value + offset) {
      out.back().count += count;
    } else {
      out.push_back({{all.first.value + offset}, count});
    }
  }
  return out;
}

void Tracker::note(std::size_t index, const std::vector<PageRange>& written) {
  const std::uint32_t first = ram_.blocks()[index].first.value;
  for (const auto& range : written) {
    const std::uint32_t offset = range.first.value - first;
    for (std::uint32_t region = offset / kRegionPages; region <= (offset + range.count - 1) / kRegionPages; ++region)
      found_[index][region] = collects_;
  }
}

std::vector<PageRange> Tracker::scan(const RamBlock& block, PageRange within, sys::Select select, bool protect) const {
  std::vector<sys::Region> regions;
  sys::pagemap_scan(pagemap_.get(), host_of(block, within.first), std::uint64_t{within.count} << kPageShift, select, protect, regions);
  std::vector<PageRange> pages;
  pages.reserve(regions.size());
  for (const auto& region : regions) pages.push_back(to_pages(block, region.start, region.bytes));
  return pages;
}

sys::Select Tracker::select_written(const RamBlock& block) const {
  return block.shared && host_swaps_() ? sys::Select::kNotProtected : sys::Select::kWritten;
}

// Protects what it returns. The two steps are for KVM: what was seen as written stays so until it is protected here, and
// more may come: the protecting scans have the last word.
std::vector<PageRange> Tracker::written(const RamBlock& block, PageRange within) const {
  const auto select = select_written(block);
  if (!two_step_) return scan(block, within, select, true);
  std::vector<PageRange> spans;
  for (const auto& range : scan(block, within, select, false)) {
    if (!spans.empty() && range.first.value - (spans.back().first.value + spans.back().count) <= kMergeGapPages) {
      spans.back().count = range.first.value + range.count - spans.back().first.value;
    } else {
      spans.push_back(range);
    }
  }
  std::vector<PageRange> found;
  for (const auto& span : spans) append(found, scan(block, span, select, true));
  return found;
}

// Of private memory, what is in swap has a page table entry of its own, which tells whether it was written.
std::vector<PageRange> Tracker::mapped(const RamBlock& block, PageRange within) const {
  std::vector<PageRange> pages = scan(block, within, block.shared ? sys::Select::kPresent : sys::Select::kPresentOrSwapped, false);
  normalize(pages);
  return pages;
}

// What was mapped at the last look, or returned as written since, and is not now; everything that is not, when there was no look.
std::vector<PageRange> Tracker::unmapped_since(std::size_t index) {
  const RamBlock& block = ram_.blocks()[index];
  std::vector<PageRange> now = mapped(block, all_of(block));
  std::vector<PageRange> gone;
  if (mapped_[index]) {
    normalize(*mapped_[index]);
    gone = subtract(*mapped_[index], now);
    for (const auto& range : gone) {
      // A marker, so that a huge page does not take its place. What came back before that is protected now, and mapped.
      sys::uffd_protect(uffd_.get(), host_of(block, range.first), std::uint64_t{range.count} << kPageShift);
      append(now, mapped(block, range));
    }
  } else {
    gone = subtract({all_of(block)}, now);
  }
  mapped_[index] = std::move(now);
  return gone;
}

std::vector<PageRange> Tracker::collect(bool unmapped_too, bool lately) {
  std::vector<PageRange> found;
  if (unsure_) {
    reset();
    for (const auto& block : ram_.blocks()) found.push_back(all_of(block));
    return found;
  }
  unsure_ = true;
  for (std::size_t i = 0; i < ram_.blocks().size(); ++i) {
    const RamBlock& block = ram_.blocks()[i];
    std::vector<PageRange> pages;
    for (const auto& range : lately ? regions(i, true) : std::vector{all_of(block)}) append(pages, written(block, range));
    note(i, pages);
    if (unmapped_too) {
      append(pages, unmapped_since(i));
    } else if (mapped_[i] && !pages_stay_) {
      append(*mapped_[i], pages);
    }
    normalize(pages);
    append(found, pages);
  }
  check_alive();
  unsure_ = false;
  return found;
}

std::vector<PageRange> Tracker::collect() {
  ++collects_;
  return collect(!pages_stay_, false);
}

void Tracker::were_mapped(const std::vector<PageRange>& pages) {
  for (std::size_t i = 0; i < ram_.blocks().size(); ++i) {
    const std::vector<PageRange> block{all_of(ram_.blocks()[i])};
    if (mapped_[i] && !pages_stay_) append(*mapped_[i], subtract(block, subtract(block, pages)));
  }
}

std::vector<PageRange> Tracker::collect_written() { return collect(false, false); }

std::vector<PageRange> Tracker::collect_written_lately() { return collect(false, true); }

// Nothing is protected here: what is found stays as it is.
bool Tracker::nothing_elsewhere() {
  bool nothing = true;
  for (std::size_t i = 0; i < ram_.blocks().size(); ++i) {
    const RamBlock& block = ram_.blocks()[i];
    for (const auto& range : regions(i, false)) {
      const auto pages = scan(block, range, select_written(block), false);
      note(i, pages);
      nothing = nothing && pages.empty();
    }
  }
  check_alive();
  return nothing;
}

void Tracker::reset() {
  unsure_ = true;
  for (std::size_t i = 0; i < ram_.blocks().size(); ++i) {
    written(ram_.blocks()[i], all_of(ram_.blocks()[i]));
    if (!pages_stay_) mapped_[i] = mapped(ram_.blocks()[i], all_of(ram_.blocks()[i]));
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
