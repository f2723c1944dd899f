// Random histories of a guest and its tracker against a model, on memory of the test's own: writes, reads, pages given back, filled
// on demand, between operations and between the system calls of one (sequence_points_test.h); calls that fail, and engines that die,
// before and after each of them.
//
// What is checked of every look:
//   - a page that nobody touched during the look is returned exactly when the table of tracker.h says so;
//   - whatever was touched during a look, and when: a page whose content is not what it was when it was returned last, is returned;
//   - what collect_written_lately() left, nothing_elsewhere() does not deny, and the next look has it;
//   - after a look that failed, the next one returns every page.
// An engine that died in a look (or in reset()) may have protected what it never returned. So whoever takes over must
// have withdrawn its claim before (Lineage::begin()): it calls reset() and reads everything. One that died at any other call, and
// one that ended between two, has lost nothing: the next one's first look has all that was written since the last complete one.
//
// Not checked, as the LIMIT of tracker.h has it (forgive()): some pages that were given back.
//
// Short here; MHV_TRACKER_ROUNDS makes it long, MHV_SEED is the first round's seed.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <random>

#include "base/error.h"
#include "guest/missing.h"
#include "guest/sequence_points_test.h"
#include "guest/tracker.h"
#include "guest/tracker_modes_test.h"

namespace mhv::guest {
namespace {

using testing::Mode;
using testing::SequencePoints;

constexpr std::uint32_t kRegionPages = 512;
constexpr std::int64_t kLatelyCollects = 40;
// Blocks that do not end where a region does; more pages than one PAGEMAP_SCAN reports one by one.
constexpr std::array<std::uint32_t, 3> kBlocks{3 * kRegionPages + 100, 1, 9 * kRegionPages + 5};
constexpr std::uint32_t kPages = kBlocks[0] + kBlocks[1] + kBlocks[2];
constexpr std::uint32_t kGapPages = 3;
constexpr std::size_t kBytes = (kPages + kBlocks.size() * kGapPages) * kPageSize;
constexpr unsigned kSteps = 120;

unsigned number_of(const char* variable, unsigned otherwise) {
  const char* const text = std::getenv(variable);
  return text == nullptr ? otherwise : static_cast<unsigned>(std::strtoul(text, nullptr, 10));
}

// What the page tables say; a guest's access and a look change it.
enum class Entry { kNone, kMarker, kProtected, kWritten };
enum class Maybe { kNo, kYes, kUnknown };
enum class Look { kAll, kWritten, kLately };

struct Page {
  std::uint64_t now = 0;   // content: the number of its last write, or of the checkpoint's; 0: zeros
  std::uint64_t seen = 0;  // that when it was returned last
  Entry entry = Entry::kNone;
  Maybe looked_mapped = Maybe::kNo;  // at the last collect(), or returned as written since
  bool in_file = false;              // of shared memory
  bool to_fill = false;              // missing, with content in the checkpoint
  bool touched = false;              // during the operation under way
};

struct Region {
  PageRange pages;
  // The number of the collect() since when something was found there: surely, and at most.
  std::int64_t found, maybe_found;
};

class History {
 public:
  History(unsigned seed, Mode mode) : random_(seed), mode_(mode), gives_back_(chance(3, 4)), pages_(kPages) {
    file_ = Fd::memory("tracked");
    if (::ftruncate(file_.get(), kBytes) != 0) throw_errno("ftruncate");
    const int flags = shared() ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    void* const at = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, flags, shared() ? file_.get() : -1, 0);
    if (at == MAP_FAILED) throw_errno("mmap");
    memory_ = static_cast<char*>(at);
    ram_ = std::make_unique<Ram>(make_ram());
    for (const RamBlock& block : ram_->blocks()) {
      const auto count = static_cast<std::uint32_t>(block.bytes >> kPageShift);
      for (std::uint32_t i = 0; i < count; i += kRegionPages)
        regions_.push_back({{{block.first.value + i}, std::min(kRegionPages, count - i)}, 0, 0});
    }
    const bool lazily = chance(1, 3);
    if (chance(1, 2) && !lazily) write({{0}, kPages});
    attach();
    if (lazily) begin_fill();
  }
  ~History() {
    if (filling_) end_fill();
    ::munmap(memory_, kBytes);
  }
  History(const History&) = delete;
  History& operator=(const History&) = delete;

  bool failed() const { return failed_; }
  std::string trace() const {
    std::string out;
    for (const std::string& line : log_) out += "\n  " + line;
    return out;
  }

  void step() {
    for (auto i = below(4); i > 0; --i) act();
    switch (below(24)) {
      case 0: return chance(1, 2) ? idle() : collect(Look::kAll);
      case 1: return detach();
      case 2: return another_engine();
      case 3: return reset();
      case 4: return filling_ ? end_fill() : check_entries();
      case 5:
      case 6:
      case 7:
      case 8:
      case 9: return collect(Look::kAll);
      case 10:
      case 11:
      case 12: return collect(Look::kWritten);
      default: return checkpoint();
    }
  }

  void end() {
    if (filling_) end_fill();
    faults_ = false;
    collect(Look::kAll);
    collect(Look::kAll);
    check_entries();
    for (std::uint32_t i = 0; i < kPages; ++i) {
      if (word(i) != pages_[i].now) return fail(i, "has another content");
    }
  }

 private:
  // ---- the memory

  bool shared() const { return mode_.shared(); }
  bool chance(unsigned part, unsigned of) { return below(of) < part; }
  std::uint32_t below(std::uint32_t end) { return static_cast<std::uint32_t>(random_() % end); }

  Ram make_ram() const {
    std::vector<Fd> fds;
    fds.push_back(shared() ? file_.duplicate() : Fd::open("/proc/self/mem", O_RDWR));
    std::vector<RamBlock> blocks;
    std::uint64_t offset = 0;
    for (const std::uint32_t count : kBlocks) {
      RamBlock block;
      block.name = "block" + std::to_string(blocks.size());
      block.host = {reinterpret_cast<std::uintptr_t>(memory_) + offset};
      block.bytes = std::uint64_t{count} * kPageSize;
      block.shared = shared();
      block.fd_offset = offset;
      block.fd = fds[0].get();
      blocks.push_back(std::move(block));
      offset += std::uint64_t{count + kGapPages} * kPageSize;
    }
    return Ram(std::move(blocks), std::move(fds));
  }
  static Fd pagemap() { return Fd::open("/proc/self/pagemap", O_RDONLY); }
  char* at(std::uint32_t page) const { return reinterpret_cast<char*>(ram_->host_of({page}).value); }
  volatile std::uint64_t& word(std::uint32_t page) const { return *reinterpret_cast<volatile std::uint64_t*>(at(page)); }

  bool unmapped(const Page& page) const { return page.entry == Entry::kNone || (shared() && page.entry == Entry::kMarker); }
  bool missing(const Page& page) const {
    return filling_ && (shared() ? !page.in_file : page.entry == Entry::kNone || page.entry == Entry::kMarker);
  }
  bool written(const Page& page) const {
    return page.entry == Entry::kWritten || (shared() && mode_.host_swaps && page.entry == Entry::kNone);
  }

  template <typename Each>
  void each(PageRange range, const Each& each_page) {
    for (std::uint32_t i = range.first.value; i < range.first.value + range.count; ++i) {
      pages_[i].touched = true;
      each_page(i, pages_[i]);
    }
  }

  void write(PageRange range, std::uint32_t stride = 1) {
    each(range, [&](std::uint32_t i, Page& page) {
      if ((i - range.first.value) % stride != 0) return;
      fill(i, page);
      word(i) = page.now = ++writes_;
      page.entry = Entry::kWritten;
      page.in_file = true;
    });
  }

  void read(PageRange range) {
    each(range, [&](std::uint32_t i, Page& page) {
      fill(i, page);
      [[maybe_unused]] const std::uint64_t read_only = word(i);
      page.in_file = true;
      if (page.entry == Entry::kNone) page.entry = Entry::kWritten;
      if (page.entry != Entry::kMarker) return;
      page.entry = Entry::kProtected;
      if (shared() && page.now == 0) forgive(page);  // punched, then only read
    });
  }

  // As a balloon gives memory back.
  void punch(PageRange range) {
    const std::size_t bytes = std::size_t{range.count} * kPageSize;
    if (shared()) {
      sys_punch(at(range.first.value) - memory_, bytes);
    } else if (::madvise(at(range.first.value), bytes, MADV_DONTNEED) != 0) {
      throw_errno("madvise");
    }
    each(range, [&](std::uint32_t, Page& page) {
      if (!page.to_fill) page.now = 0;
      const bool was_unmapped = unmapped(page);
      const bool unseen = page.looked_mapped == Maybe::kNo || (page.looked_mapped == Maybe::kUnknown && page.entry == Entry::kWritten);
      page.entry = shared() && (page.entry == Entry::kProtected || page.entry == Entry::kMarker) ? Entry::kMarker : Entry::kNone;
      page.in_file = false;
      if (!page.to_fill && (unseen || (shared() && was_unmapped))) forgive(page);
    });
  }
  void sys_punch(std::ptrdiff_t offset, std::size_t bytes) const {
    if (::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, static_cast<off_t>(bytes)) != 0)
      throw_errno("fallocate");
  }
  // The LIMIT of tracker.h: whoever uses the tracker looks at this page itself.
  static void forgive(Page& page) { page.seen = page.now; }

  // As reclaim to swap leaves shared memory: the page stays.
  void lose_entries(PageRange range) {
    if (::madvise(at(range.first.value), std::size_t{range.count} * kPageSize, MADV_DONTNEED) != 0) throw_errno("madvise");
    each(range, [](std::uint32_t, Page& page) {
      if (page.entry == Entry::kWritten) page.entry = Entry::kNone;
      if (page.entry == Entry::kProtected) page.entry = Entry::kMarker;
    });
  }

  PageRange somewhere() {
    if (!recent_.empty() && chance(1, 3)) return recent_[below(static_cast<std::uint32_t>(recent_.size()))];
    const PageRange range = somewhere_else();
    recent_.push_front(range);
    if (recent_.size() > 4) recent_.pop_back();
    return range;
  }
  PageRange somewhere_else() {
    if (chance(1, 20)) hot_ = below(static_cast<std::uint32_t>(regions_.size()));
    const PageRange region = regions_[chance(4, 5) ? hot_ : below(static_cast<std::uint32_t>(regions_.size()))].pages;
    std::uint32_t first = region.first.value + below(region.count);
    if (chance(1, 3)) first = region.first.value - std::min(below(20), region.first.value);  // across the border
    const RamBlock& block = ram_->block_of({first});
    const auto rest = static_cast<std::uint32_t>((block.bytes >> kPageShift) - (first - block.first.value));
    const std::uint32_t count = chance(1, 2) ? 1 : chance(1, 20) ? 1 + below(1200) : 1 + below(40);
    return {{first}, std::min(count, rest)};
  }

  void act() {
    const PageRange range = somewhere();
    const auto say = [&](const char* what) { note_line(fmt(what, range)); };
    const std::uint32_t choice = below(12);
    if (choice == 0) {
      say("read");
      read(range);
    } else if (choice <= 2 && gives_back_) {
      say("punch");
      punch(range);
    } else if (choice == 3 && shared() && mode_.host_swaps) {
      say("lose entries");
      lose_entries(range);
    } else if (choice == 4 && filling_) {
      say("fill");
      each(range, [&](std::uint32_t i, Page& page) {
        if (page.to_fill) fill(i, page);
      });
    } else if (choice == 5 && chance(1, 20)) {
      note_line("write every other page");
      const RamBlock& block = ram_->blocks().back();
      write({block.first, kBlocks.back()}, 2);
    } else {
      say("write");
      write(range);
    }
  }

  // ---- filling on demand

  void begin_fill() {
    reset();
    for (std::uint32_t i = 0; i < kPages; ++i) {
      Page& page = pages_[i];
      page.to_fill = i % 3 != 0 && (shared() ? !page.in_file : page.entry == Entry::kNone || page.entry == Entry::kMarker);
      if (page.to_fill) page.now = page.seen = (std::uint64_t{1} << 40) + i;
    }
    missing_.emplace(uffd_.duplicate(), pagemap(), ram_->duplicate());
    missing_->arm();
    filling_ = true;
  }

  // What is accessed is there first, as a Filler does it.
  void fill(std::uint32_t number, Page& page) {
    if (!missing(page)) return;
    std::array<std::byte, kPageSize> content{};
    std::memcpy(content.data(), &page.now, sizeof page.now);
    const bool clean = page.now == page.seen;
    if (missing_->fill({number}, content, clean) != 1) fail(number, "is not missing");
    page.entry = clean ? Entry::kProtected : Entry::kWritten;
    page.to_fill = false;
    page.in_file = true;
    page.touched = true;
  }

  void end_fill() {
    note_line("end of the fill");
    for (std::uint32_t i = 0; i < kPages; ++i) {
      if (pages_[i].to_fill) fill(i, pages_[i]);
    }
    missing_->disarm_private();
    missing_->disarm_shared();
    filling_ = false;
    for (Page& page : pages_) {
      if (shared()) break;  // its written bits stay
      if (page.entry == Entry::kProtected) page.entry = Entry::kWritten;
      if (page.entry == Entry::kMarker) page.entry = Entry::kNone;
    }
    check_entries();
  }

  // ---- the engine

  enum class End { kDone, kThrew, kDied };

  // The guest acts, and the call fails or the engine dies, at random ones of its system calls.
  End run(const std::string& name, const std::function<void()>& call) {
    for (Page& page : pages_) page.touched = false;
    std::uint32_t& usual = usual_calls_[name];
    const bool acts_once = faults_ && chance(1, 4), acts_often = faults_ && chance(1, 8), fault = faults_ && chance(1, 5);
    const std::uint32_t act_at = below(usual + 1), fault_at = below(usual + 1), kind = below(5);
    const bool late = chance(1, 2);
    bool dead = false;
    std::uint32_t calls = 0;
    note_line(name);
    try {
      const SequencePoints points([&]() -> SequencePoints::Fate {
        const std::uint32_t number = calls++;
        if ((acts_once && number == act_at) || (acts_often && chance(1, 3))) act();
        if (dead) return {ESRCH};
        if (!fault || number != fault_at) return {};
        if (kind == 0) return {EINTR};
        note_line((kind <= 2 ? "fails at call " : "dies at call ") + std::to_string(number) + (late ? ", late" : ""));
        dead = kind > 2;
        return {dead ? ESRCH : EIO, late};
      });
      call();
    } catch (const Error&) {
      if (!fault) throw;
      return dead ? End::kDied : End::kThrew;
    }
    usual = std::max(1u, calls);
    return dead ? End::kDied : End::kDone;
  }

  // What the page tables say of pages that were touched, or protected, nobody knows when.
  Entry entry_of(std::uint64_t word_of_pagemap) const {
    const bool present = (word_of_pagemap >> 63 & 1) != 0, wp = (word_of_pagemap >> 57 & 1) != 0;
    return present ? (wp ? Entry::kProtected : Entry::kWritten) : wp ? Entry::kMarker : Entry::kNone;
  }
  std::vector<Entry> entries() const {
    std::vector<Entry> out;
    const Fd file = pagemap();
    for (const RamBlock& block : ram_->blocks()) {
      std::vector<std::uint64_t> words(block.bytes >> kPageShift);
      pread_all(file.get(), std::as_writable_bytes(std::span(words)), (block.host.value >> kPageShift) * 8, "pagemap");
      for (const std::uint64_t one : words) out.push_back(entry_of(one));
    }
    return out;
  }
  void take_entries(bool only_touched) {
    if (only_touched && std::none_of(pages_.begin(), pages_.end(), [](const Page& page) { return page.touched; })) return;
    const std::vector<Entry> all = entries();
    for (std::uint32_t i = 0; i < kPages; ++i) {
      if (pages_[i].touched || !only_touched) pages_[i].entry = all[i];
    }
  }
  void check_entries() {
    const std::vector<Entry> all = entries();
    for (std::uint32_t i = 0; i < kPages; ++i) {
      if (pages_[i].entry != all[i]) return fail(i, "has another entry than the model: " + std::to_string(static_cast<int>(all[i])));
    }
  }

  void attach() {
    uffd_ = testing::new_uffd();
    make_tracker(true);
  }

  void make_tracker(bool fresh) {
    tracker_.reset();
    while (run("make", [&] {
             tracker_.emplace(uffd_.duplicate(), pagemap(), *ram_, fresh, mode_.two_step, mode_.host_swaps_function());
           }) != End::kDone)
      tracker_.reset();
    if (!gives_back_) tracker_->pages_stay();
    take_entries(false);  // a read of memory that is not registered maps its neighbours, too
    everything_ = fresh;
    looked_ = false;
    collects_ = 0;
    for (Region& region : regions_) region.found = region.maybe_found = -kLatelyCollects;
    for (Page& page : pages_) page.looked_mapped = Maybe::kYes;  // all that is unmapped is returned by the first collect()
  }

  // Lineage: with no claim, it looks at everything.
  void take_over() {
    take_entries(false);
    make_tracker(false);
    if (claim_) return;
    const bool faults = std::exchange(faults_, false);
    reset();
    faults_ = faults;
  }

  void another_engine() {
    note_line("another engine");
    take_over();
  }

  void detach() {
    if (filling_) return;
    const End end = run("detach", [&] { tracker_->detach(); });
    if (end != End::kDone) return take_over();  // what is not registered any more counts as written
    take_entries(false);
    for (auto i = below(4); i > 0; --i) act();
    attach();
  }
  void reset() {
    claim_ = false;
    const End end = run("reset", [&] { tracker_->reset(); });
    if (end == End::kDied) return take_over();
    if (end == End::kThrew) return gave_up();
    protected_everything();
  }

  void gave_up() {
    everything_ = true;
    take_entries(false);
    for (Region& region : regions_) region.maybe_found = collects_;
  }

  void protected_everything() {
    for (Page& page : pages_) {
      page.seen = page.now;
      if (written(page)) page.entry = page.entry == Entry::kNone ? Entry::kMarker : Entry::kProtected;
      page.looked_mapped = page.touched ? Maybe::kUnknown : unmapped(page) ? Maybe::kNo : Maybe::kYes;
    }
    take_entries(true);
    everything_ = false;
    looked_ = true;
    claim_ = true;
  }

  Maybe lately(const Region& region) const {
    if (collects_ - region.found < kLatelyCollects) return Maybe::kYes;
    return collects_ - region.maybe_found < kLatelyCollects ? Maybe::kUnknown : Maybe::kNo;
  }

  // ---- looks

  void collect(Look look) {
    static const std::map<Look, std::string> kNames{
        {Look::kAll, "collect"}, {Look::kWritten, "collect_written"}, {Look::kLately, "lately"}};
    std::vector<PageRange> found;
    claim_ = false;
    left_.clear();
    if (look == Look::kAll) ++collects_;
    const End end = run(kNames.at(look) + (everything_ ? ", everything" : ""), [&] {
      found = look == Look::kAll       ? tracker_->collect()
              : look == Look::kWritten ? tracker_->collect_written()
                                       : tracker_->collect_written_lately();
    });
    if (end == End::kDied) return take_over();
    if (end == End::kThrew) return gave_up();
    const std::vector<bool> returned = bitmap(found);
    if (everything_) {
      for (std::uint32_t i = 0; i < kPages; ++i) {
        if (!returned[i]) return fail(i, "is not returned, after a failure");
      }
      return protected_everything();
    }
    for (Region& region : regions_) check_region(look, region, returned);
    take_entries(true);
    if (look == Look::kAll) looked_ = true;
    claim_ = true;
  }

  // Ascending, merged, inside blocks.
  std::vector<bool> bitmap(const std::vector<PageRange>& ranges) {
    std::vector<bool> out(kPages);
    std::uint32_t end = 0;
    for (const PageRange& range : ranges) {
      const std::uint32_t first = range.first.value;
      const RamBlock& block = ram_->block_of(range.first);
      if (range.count == 0 || first < end || (first == end && first != block.first.value))
        fail(first, "begins a range that is not in order");
      end = first + range.count;
      if (end > block.first.value + (block.bytes >> kPageShift)) fail(first, "begins a range that crosses a block");
      for (std::uint32_t i = first; i < std::min(end, kPages); ++i) out[i] = true;
    }
    return out;
  }

  void check_region(Look look, Region& region, const std::vector<bool>& returned) {
    const Maybe looked_at = look == Look::kLately ? lately(region) : Maybe::kYes;
    for (std::uint32_t i = region.pages.first.value; i < region.pages.first.value + region.pages.count; ++i) {
      Page& page = pages_[i];
      if (page.touched) {
        region.maybe_found = collects_;
      } else {
        check_page(look, looked_at, i, returned[i]);
        if (returned[i] && written(page)) region.found = region.maybe_found = collects_;
      }
      after(look, page, returned[i]);
    }
  }

  // A page that nobody touched during the look.
  void check_page(Look look, Maybe looked_at, std::uint32_t number, bool returned) {
    const Page& page = pages_[number];
    const Maybe gone = look == Look::kAll && gives_back_ && unmapped(page) ? page.looked_mapped : Maybe::kNo;
    const bool must = (written(page) && looked_at == Maybe::kYes) || gone == Maybe::kYes;
    const bool may = (written(page) && looked_at != Maybe::kNo) || gone != Maybe::kNo;
    if (must && !returned) fail(number, "is not returned");
    if (!may && returned) fail(number, "is returned");
    const bool changed = page.now != page.seen && (look == Look::kAll || page.now != 0);
    if (returned || !changed) return;
    if (look == Look::kLately && looked_at != Maybe::kYes) {
      left_[number] = page.now;
      return;
    }
    fail(number, "is lost");
  }

  void after(Look look, Page& page, bool returned) const {
    const bool protects_gone = look == Look::kAll && looked_ && gives_back_;
    if (returned) {
      page.seen = page.now;
      if (page.entry == Entry::kWritten) page.entry = Entry::kProtected;
      if (page.entry == Entry::kNone && (protects_gone || written(page))) page.entry = Entry::kMarker;
    }
    if (look == Look::kAll) {
      page.looked_mapped = page.touched ? Maybe::kUnknown : unmapped(page) ? Maybe::kNo : Maybe::kYes;
    } else if (returned) {
      page.looked_mapped = Maybe::kYes;
    }
  }

  // As Checkpointer::pause_at_one_moment().
  void checkpoint() {
    collect(Look::kLately);
    if (failed_ || !claim_) return;
    for (auto i = below(3); i > 1; --i) act();
    bool nothing = false;
    const End end = run("nothing_elsewhere", [&] { nothing = tracker_->nothing_elsewhere(); });
    if (end == End::kDied) return take_over();
    take_entries(true);
    bool sure = false, possible = false;
    for (Region& region : regions_) {
      const Maybe is_lately = lately(region);
      bool found = false, maybe_found = end == End::kThrew;
      for (std::uint32_t i = region.pages.first.value; i < region.pages.first.value + region.pages.count; ++i) {
        found |= is_lately == Maybe::kNo && !pages_[i].touched && written(pages_[i]);
        maybe_found |= is_lately != Maybe::kYes && (pages_[i].touched || written(pages_[i]));
      }
      if (found && end == End::kDone) region.found = collects_;
      if (found || maybe_found) region.maybe_found = collects_;
      sure |= found;
      possible |= maybe_found;
    }
    if (end == End::kThrew) return;
    note_line(nothing ? "  nothing" : "  something");
    if (nothing && sure) fail(0, "or another was written elsewhere, and it says nothing was");
    if (!nothing && !possible) fail(0, "and all others were not written elsewhere, and it says something was");
    for (const auto& [number, content] : left_) {
      if (nothing && pages_[number].now == content) return fail(number, "was left, and nothing is said to be elsewhere");
    }
    if (!nothing) collect(chance(1, 2) ? Look::kWritten : Look::kAll);
  }

  void idle() {
    const bool faults = std::exchange(faults_, false);
    for (std::int64_t i = kLatelyCollects - 1 + below(3); i > 0 && !failed_; --i) collect(Look::kAll);
    faults_ = faults;
  }

  // ---- what is said of a failure

  static std::string fmt(const char* what, PageRange range) {
    return std::string("  ") + what + " " + std::to_string(range.first.value) + "+" + std::to_string(range.count);
  }
  void note_line(std::string line) {
    log_.push_back(std::move(line));
    if (log_.size() > 60) log_.pop_front();
  }
  void fail(std::uint32_t number, const std::string& what) {
    if (std::exchange(failed_, true)) return;
    const Page& page = pages_[number];
    ADD_FAILURE() << "page " << number << " " << what << "; content " << page.now << ", returned " << page.seen << ", entry "
                  << static_cast<int>(page.entry) << ", mapped " << static_cast<int>(page.looked_mapped);
  }

  std::mt19937 random_;
  const Mode mode_;
  const bool gives_back_;
  bool faults_ = true;
  Fd file_, uffd_;
  char* memory_ = nullptr;
  std::unique_ptr<Ram> ram_;
  std::optional<Tracker> tracker_;
  std::optional<MissingPages> missing_;
  bool filling_ = false;

  std::vector<Page> pages_;
  std::vector<Region> regions_;
  std::uint32_t hot_ = 0;
  std::deque<PageRange> recent_;
  std::uint64_t writes_ = 0;
  std::int64_t collects_ = 0;                    // of this engine
  bool everything_ = false;                      // the next look returns every page
  bool looked_ = false;                          // this engine has looked at what is mapped
  bool claim_ = false;                           // what the kernel does not report is as it was returned
  std::map<std::uint32_t, std::uint64_t> left_;  // by collect_written_lately(): pages, and their content then
  std::map<std::string, std::uint32_t> usual_calls_;
  std::deque<std::string> log_;
  bool failed_ = false;
};

class TrackerModel : public ::testing::TestWithParam<Mode> {};

TEST_P(TrackerModel, NothingIsLostAndNothingIsMadeUp) {
  if (!testing::new_uffd()) GTEST_SKIP() << "no /dev/userfaultfd";
  const unsigned first = number_of("MHV_SEED", 1), rounds = number_of("MHV_TRACKER_ROUNDS", 15);
  for (unsigned seed = first; seed < first + rounds && !HasFailure(); ++seed) {
    History history(seed, GetParam());
    for (unsigned i = 0; i < kSteps && !history.failed(); ++i) history.step();
    if (!history.failed()) history.end();
    if (history.failed()) ADD_FAILURE() << "MHV_SEED=" << seed << " MHV_TRACKER_ROUNDS=1" << history.trace();
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, TrackerModel, testing::all_modes(), testing::name_of);

}  // namespace
}  // namespace mhv::guest
