// Memory that a kernel does not write, but at its sites: page by page a digest, and what it takes to say where a page was changed.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/units.h"
#include "integrity/digest.h"
#include "integrity/inventory.h"
#include "integrity/sites.h"

namespace mhv::integrity {

// Pages that were written, sorted, and not overlapping; nullptr where everything is to be looked at.
using Written = std::vector<PhysRange>;
bool was_written(const Written& written, GuestPhys page);

inline constexpr std::size_t kGranule = 16;  // functions begin on multiples of it

// What a check found of one region.
struct Changes {
  std::vector<GuestVirt> granules;  // changed, sorted
  std::vector<Site> sites;          // changed to what may not be there
  std::vector<GuestVirt> moved;     // pages behind which another page of RAM stands now, or none
  bool empty() const { return granules.empty() && sites.empty() && moved.empty(); }
};

// Not thread-safe.
class Measured {
 public:
  // Throws kBusy: not all of it can be read. `sites`: those within, sorted.
  Measured(Reader& reader, Digester& digester, Range range, std::vector<Site> sites);

  // `probes` are known to the kernel: what they changed is no change.
  Changes check(Reader& reader, Digester& digester, SiteJudge& judge, std::span<const Probe> probes, const Written* written);
  // Looks once more at what was not right: of a guest that runs, it may have been seen in the middle of a change.
  Changes check_again(Reader& reader, Digester& digester, SiteJudge& judge, std::span<const Probe> probes);
  const Range& range() const { return range_; }
  std::size_t pages() const { return pages_.size(); }

 private:
  using Bytes = std::span<std::byte, kPageSize>;  // of one page
  using Marks = std::array<std::uint16_t, kPageSize / kGranule>;
  struct Page {
    GuestPhys phys;
    Digest whole;  // as it was when it was right
    Digest still;  // with its sites blotted out
    bool suspect = false;
  };
  GuestVirt at(std::size_t page) const { return first_ + page * kPageSize; }
  static Changes finish(Changes changes);
  std::span<const Site> sites_of(std::size_t page) const;
  bool read(const Reader& reader, std::size_t page, std::size_t count, std::span<std::byte> out) const;
  std::size_t together(std::size_t page) const;
  void blot(std::size_t page, Bytes bytes) const;
  void undo(std::size_t page, std::span<const Probe> probes, bool halfway, Bytes bytes) const;
  static std::uint16_t mark(const std::byte* granule);
  void check_mappings(Reader& reader, bool all, Changes& out);
  void check_all(Reader& reader, Digester& digester, SiteJudge& judge, std::span<const Probe> probes, Changes& out);
  void check_suspects(Reader& reader, Digester& digester, SiteJudge& judge, std::span<const Probe> probes, Changes& out);
  void check_page(Reader& reader, Digester& digester, SiteJudge& judge, std::span<const Probe> probes, std::size_t page, Changes& out);
  void check_bytes(Digester& digester, SiteJudge& judge, std::span<const Probe> probes, std::size_t page, Bytes bytes, Changes& out);

  Range range_;
  GuestVirt first_;     // its first page
  bool large_ = false;  // it is of large pages: few entries say where it is
  std::vector<Page> pages_;
  std::vector<Marks> marks_;
  std::vector<Site> sites_;
  std::vector<std::uint32_t> by_phys_;
};

}  // namespace mhv::integrity
