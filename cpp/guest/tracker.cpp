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

// What a scan of one block showed; the lists ascend.
struct Tracker::View {
  std::vector<PageRange> written;
  std::vector<PageRange> none;     // neither mapped nor protected
  std::vector<PageRange> missing;  // shared block: everything not present, `none` and unmapped written pages included
};

Tracker::Tracker(Fd uffd, Fd pagemap, const Ram& ram, bool fresh, bool two_step)
    : uffd_(std::move(uffd)), pagemap_(std::move(pagemap)), ram_(ram), two_step_(two_step), unmapped_(ram.blocks().size()) {
  if (fresh) {
    sys::uffd_handshake(uffd_.get());
    for (const auto& block : ram_.blocks()) sys::uffd_register(uffd_.get(), block.host, block.bytes);
  }
  // Also proves that every block is registered, by whomever.
  pending();
}

Tracker::~Tracker() = default;

Tracker::View Tracker::look(const RamBlock& block, bool protect) const {
  std::vector<sys::Region> regions;
  sys::pagemap_scan(pagemap_.get(), block.host, block.bytes, sys::Select::kWrittenOrNotMapped, protect, regions);
  View view;
  for (const auto& region : regions) {
    const PageRange pages = to_pages(block, region.start, region.bytes);
    if (region.written) {
      view.written.push_back(pages);
    } else if (!region.present && !region.swapped) {
      view.none.push_back(pages);
    }
    if (block.shared && !region.present) view.missing.push_back(pages);
  }
  normalize(view.missing);
  return view;
}

// The second step for KVM. What was seen as written stays so until it is protected here, and more may come: the
// protecting scans have the last word.
void Tracker::protect_written(const RamBlock& block, View& view) const {
  std::vector<PageRange> spans;
  for (const auto& range : view.written) {
    if (!spans.empty() && range.first.value - (spans.back().first.value + spans.back().count) <= kMergeGapPages) {
      spans.back().count = range.first.value + range.count - spans.back().first.value;
    } else {
      spans.push_back(range);
    }
  }
  view.written.clear();
  std::vector<sys::Region> regions;
  for (const auto& span : spans) {
    const std::uint64_t bytes = std::uint64_t{span.count} << kPageShift;
    sys::pagemap_scan(pagemap_.get(), host_of(block, span.first), bytes, sys::Select::kWritten, true, regions);
  }
  for (const auto& region : regions) view.written.push_back(to_pages(block, region.start, region.bytes));
}

std::vector<PageRange> Tracker::collect_block(std::size_t index) {
  const RamBlock& block = ram_.blocks()[index];
  View view = look(block, !two_step_);
  if (two_step_) protect_written(block, view);
  // A scan gives a marker to a none page only where the kernel calls it written; so mark them all.
  for (const auto& range : view.none) {
    sys::uffd_protect(uffd_.get(), host_of(block, range.first), std::uint64_t{range.count} << kPageShift);
  }
  std::vector<PageRange> found = std::move(view.written);
  append(found, view.none);
  if (block.shared) {
    append(found, subtract(view.missing, unmapped_[index]));
    unmapped_[index] = std::move(view.missing);
  }
  normalize(found);
  return found;
}

std::vector<PageRange> Tracker::collect() {
  const bool everything = std::exchange(unsure_, true);
  std::vector<PageRange> found;
  for (std::size_t i = 0; i < ram_.blocks().size(); ++i) append(found, collect_block(i));
  check_alive();
  unsure_ = false;
  if (!everything) return found;
  found.clear();
  for (const auto& block : ram_.blocks()) found.push_back(to_pages(block, block.host, block.bytes));
  return found;
}

std::uint64_t Tracker::pending() const {
  check_alive();
  if (unsure_) return ram_.pages();
  std::uint64_t pages = 0;
  for (const auto& block : ram_.blocks()) {
    const View view = look(block, false);
    pages += count_pages(view.written) + count_pages(view.none);
  }
  check_alive();
  return pages;
}

void Tracker::reset() {
  unsure_ = true;
  for (std::size_t i = 0; i < ram_.blocks().size(); ++i) {
    const RamBlock& block = ram_.blocks()[i];
    sys::uffd_protect(uffd_.get(), block.host, block.bytes);
    if (block.shared) unmapped_[i] = look(block, false).missing;
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
