#include "integrity/measured.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/error.h"

namespace mhv::integrity {
namespace {

constexpr std::size_t kTogether = 16;  // pages, for one read

}  // namespace

bool was_written(const Written& written, GuestPhys page) {
  const auto behind = std::ranges::upper_bound(written, page, {}, &PhysRange::start);
  if (behind != written.end() && behind->start - page < kPageSize) return true;
  return behind != written.begin() && page - std::prev(behind)->start < std::prev(behind)->bytes;
}

Measured::Measured(Reader& reader, Digester& digester, Range range, std::vector<Site> sites)
    : range_(range), first_{range.start.value & ~(kPageSize - 1)}, sites_(std::move(sites)) {
  const std::size_t count = (range.end() - first_ + kPageSize - 1) / kPageSize;
  pages_.resize(count);
  marks_.resize(count);
  std::array<std::byte, kPageSize> buffer;
  const Bytes bytes(buffer);
  for (std::size_t page = 0; page < count; ++page) {
    const auto mapping = reader.kernel().space().translate(at(page));
    if (mapping) pages_[page].phys = mapping->at;
    if (page == 0) large_ = mapping && mapping->page_bytes > kPageSize;
    if (!mapping || !read(reader, page, 1, bytes)) {
      throw Error(Code::kBusy, "the guest's kernel has code where nothing can be read, at " + hex(at(page).value), "try again");
    }
    pages_[page].whole = digester(bytes);
    blot(page, bytes);
    pages_[page].still = digester(bytes);
    for (std::size_t i = 0; i < marks_[page].size(); ++i) marks_[page][i] = mark(bytes.data() + i * kGranule);
  }
  by_phys_.resize(count);
  std::iota(by_phys_.begin(), by_phys_.end(), 0);
  std::ranges::sort(by_phys_, {}, [&](std::uint32_t page) { return pages_[page].phys; });
}

// One that begins on the page before may end on this one.
std::span<const Site> Measured::sites_of(std::size_t page) const {
  const GuestVirt start = at(page), from{start.value - kSiteBytesMax}, end = start + kPageSize;
  auto first = std::ranges::lower_bound(sites_, from, {}, &Site::at);
  const auto last = std::ranges::lower_bound(sites_, end, {}, &Site::at);
  while (first != last && first->at + first->bytes <= start) ++first;
  return {first, last};
}

// Pages from this one on that are neighbours in RAM too.
std::size_t Measured::together(std::size_t page) const {
  std::size_t count = 1;
  while (count < kTogether && page + count < pages_.size() && pages_[page + count].phys == pages_[page].phys + count * kPageSize) ++count;
  return count;
}

// What is outside of the range counts as zeros.
bool Measured::read(const Reader& reader, std::size_t page, std::size_t count, std::span<std::byte> out) const {
  if (!reader.kernel().space().memory().read(pages_[page].phys, out)) return false;
  const GuestVirt start = at(page), end = at(page + count);
  if (start < range_.start) std::fill_n(out.begin(), range_.start - start, std::byte{0});
  if (end > range_.end()) std::fill(out.end() - static_cast<std::ptrdiff_t>(end - range_.end()), out.end(), std::byte{0});
  return true;
}

void Measured::blot(std::size_t page, Bytes bytes) const {
  const GuestVirt start = at(page);
  for (const Site& site : sites_of(page)) {
    for (std::size_t i = 0; i < site.bytes; ++i) {
      const std::uint64_t place = site.at.value + i - start.value;
      if (place < kPageSize) bytes[place] = std::byte{0};
    }
  }
}

// Puts back what stood where a probe begins with int3, or jumps. `halfway`: under int3 there may be the rest of a jump.
void Measured::undo(std::size_t page, std::span<const Probe> probes, bool halfway, Bytes bytes) const {
  constexpr std::byte kInt3{0xcc}, kJump{0xe9};
  const GuestVirt start = at(page);
  for (const Probe& probe : probes) {
    const std::uint64_t place = probe.at - start;
    if (probe.by_ftrace || place >= kPageSize || (bytes[place] != kInt3 && bytes[place] != kJump)) continue;
    const std::size_t count = bytes[place] == kJump || halfway ? std::min<std::uint64_t>(probe.was.size(), kPageSize - place) : 1;
    std::copy_n(probe.was.begin(), count, bytes.begin() + static_cast<std::ptrdiff_t>(place));
  }
}

// Only says where; whether something was changed, the digest says.
std::uint16_t Measured::mark(const std::byte* granule) {
  constexpr std::uint64_t kMix = 0x9e37'79b9'7f4a'7c15;
  std::uint64_t words[2];
  std::memcpy(words, granule, sizeof words);
  const std::uint64_t mixed = ((words[0] ^ kMix) * kMix ^ words[1]) * kMix;
  return static_cast<std::uint16_t>(mixed >> 48);
}

// Large pages are translated once. Small ones only when everything is looked at.
void Measured::check_mappings(Reader& reader, bool all, Changes& out) {
  if (!all && !large_) return;
  GuestVirt known_end = first_;
  std::uint64_t distance = 0;
  for (std::size_t page = 0; page < pages_.size(); ++page) {
    const GuestVirt virt = at(page);
    if (virt >= known_end) {
      const auto mapping = reader.kernel().space().translate(virt);
      if (!mapping) {
        out.moved.push_back(virt);
        continue;
      }
      distance = mapping->at.value - virt.value;
      known_end = virt + (mapping->page_bytes - virt.value % mapping->page_bytes);
    }
    if (virt.value + distance != pages_[page].phys.value) out.moved.push_back(virt);
  }
}

void Measured::check_all(Reader& reader, Digester& digester, SiteJudge& judge, std::span<const Probe> probes, Changes& out) {
  std::vector<std::byte> bytes(kTogether * kPageSize);
  for (std::size_t page = 0; page < pages_.size();) {
    const std::size_t count = together(page);
    if (!read(reader, page, count, std::span(bytes).first(count * kPageSize))) {
      out.moved.push_back(at(page));
    } else {
      for (std::size_t i = 0; i < count; ++i) {
        check_bytes(digester, judge, probes, page + i, std::span(bytes).subspan(i * kPageSize).first<kPageSize>(), out);
      }
    }
    page += count;
  }
}

void Measured::check_page(Reader& reader, Digester& digester, SiteJudge& judge, std::span<const Probe> probes, std::size_t page,
                          Changes& out) {
  std::array<std::byte, kPageSize> bytes;
  if (read(reader, page, 1, bytes)) {
    check_bytes(digester, judge, probes, page, bytes, out);
  } else {
    out.moved.push_back(at(page));
  }
}

void Measured::check_bytes(Digester& digester, SiteJudge& judge, std::span<const Probe> probes, std::size_t page, Bytes bytes,
                           Changes& out) {
  Page& known = pages_[page];
  known.suspect = true;  // until it is found right
  const Digest whole = digester(bytes);
  if (whole == known.whole) {
    known.suspect = false;
    return;
  }
  bool right = true;
  for (const Site& site : sites_of(page)) {
    const SiteState state = judge.judge(site);
    if (state == SiteState::kRight) continue;
    right = false;
    if (state == SiteState::kWrong) out.sites.push_back(site);
  }
  std::array<std::byte, kPageSize> found;
  std::ranges::copy(bytes, found.begin());
  blot(page, bytes);
  if (digester(bytes) == known.still) {
    known.suspect = !right;
    if (right) known.whole = whole;
    return;
  }
  for (const bool halfway : {true, false}) {
    std::ranges::copy(found, bytes.begin());
    undo(page, probes, halfway, bytes);
    blot(page, bytes);
    if (digester(bytes) == known.still) {
      known.suspect = !right;
      return;
    }
  }
  const std::size_t before = out.granules.size();
  for (std::size_t i = 0; i < marks_[page].size(); ++i) {
    if (mark(bytes.data() + i * kGranule) != marks_[page][i]) out.granules.push_back(at(page) + i * kGranule);
  }
  if (out.granules.size() == before) out.granules.push_back(at(page));
}

void Measured::check_suspects(Reader& reader, Digester& digester, SiteJudge& judge, std::span<const Probe> probes, Changes& out) {
  for (std::size_t page = 0; page < pages_.size(); ++page) {
    if (pages_[page].suspect) check_page(reader, digester, judge, probes, page, out);
  }
}

Changes Measured::check(Reader& reader, Digester& digester, SiteJudge& judge, std::span<const Probe> probes, const Written* written) {
  Changes out;
  check_mappings(reader, written == nullptr, out);
  if (written == nullptr) {
    check_all(reader, digester, judge, probes, out);
  } else {
    check_suspects(reader, digester, judge, probes, out);
    for (const PhysRange& range : *written) {
      const GuestPhys from{range.start.value & ~(kPageSize - 1)};
      auto next = std::ranges::lower_bound(by_phys_, from, {}, [&](std::uint32_t page) { return pages_[page].phys; });
      for (; next != by_phys_.end() && pages_[*next].phys.value - from.value < range.bytes + (range.start - from); ++next) {
        if (!pages_[*next].suspect) check_page(reader, digester, judge, probes, *next, out);
      }
    }
  }
  return finish(std::move(out));
}

Changes Measured::check_again(Reader& reader, Digester& digester, SiteJudge& judge, std::span<const Probe> probes) {
  Changes out;
  check_mappings(reader, true, out);
  check_suspects(reader, digester, judge, probes, out);
  return finish(std::move(out));
}

// A site that two pages share is told once.
Changes Measured::finish(Changes changes) {
  std::ranges::sort(changes.sites, {}, &Site::at);
  const auto is_same = [](const Site& a, const Site& b) { return a.at == b.at; };
  changes.sites.erase(std::unique(changes.sites.begin(), changes.sites.end(), is_same), changes.sites.end());
  std::ranges::sort(changes.granules);
  return changes;
}

}  // namespace mhv::integrity
