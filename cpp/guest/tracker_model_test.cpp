// Random histories of a guest and its tracker against a model: what the guest does, between the operations and between the system
// calls of one (sequence_points_test.h); calls that fail, and engines that die, before and after each of them.
//
// What is checked of every look:
//   - a page that nobody touched during the look is returned exactly when the table of tracker.h says so;
//   - a page whose content is not what it was when it was returned last is returned by the next look, whatever was done to it, and when
//     (what was only given back: by the next collect());
//   - what collect_written_lately() left, nothing_elsewhere() does not deny, and the next look has it;
//   - after a look that failed, the next one returns every page.
// An engine that dies in a look, or in reset(), may have protected what it never returned. So whoever takes over has no claim
// (Lineage::begin() withdraws it before each look): it calls reset() and reads everything. One that dies in any other call, or
// between two, has lost nothing: the next one's first look has all that was written since the last complete one.
//
// Not checked, as the LIMIT of tracker.h has it: some pages that were given back (model_guest_test.cpp, forgive()).
//
// Short here; MHV_TRACKER_ROUNDS makes it long, MHV_SEED is the first round's seed.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "guest/model_guest_test.h"
#include "guest/sequence_points_test.h"
#include "guest/tracker.h"
#include "guest/tracker_modes_test.h"

namespace mhv::guest {
namespace {

using testing::Entry;
using testing::Maybe;
using testing::Mode;
using testing::ModelGuest;
using testing::ModelPage;
using testing::SequencePoints;

constexpr std::int64_t kLatelyCollects = 40;  // as in tracker.cpp
constexpr unsigned kSteps = 120;

unsigned number_of(const char* variable, unsigned otherwise) {
  const char* const text = std::getenv(variable);
  return text == nullptr ? otherwise : static_cast<unsigned>(std::strtoul(text, nullptr, 10));
}

enum class Look { kAll, kWritten, kLately };

const char* name_of(Look look) {
  switch (look) {
    case Look::kAll: return "collect";
    case Look::kWritten: return "collect_written";
    case Look::kLately: return "collect_written_lately";
  }
  return "";
}

struct Region {
  PageRange pages;
  // The number of the collect() since when something was found there: for sure, and at most.
  std::int64_t found = 0, maybe_found = 0;
};

class History {
 public:
  History(unsigned seed, Mode mode) : guest_(seed, mode) {
    for (const PageRange& range : guest_.regions()) regions_.push_back({range});
    const bool fills = guest_.chance(1, 3);
    if (!fills && guest_.chance(1, 2)) guest_.write_all();
    attach();
    if (!fills) return;
    reset();
    guest_.begin_fill(uffd_);
  }

  bool failed() const { return guest_.failed(); }
  std::string trace() const { return guest_.trace(); }

  void step() {
    for (auto i = guest_.below(4); i > 0; --i) guest_.act();
    switch (guest_.below(24)) {
      case 0: return guest_.chance(1, 2) ? idle() : guest_.check_entries();
      case 1: return guest_.filling() ? guest_.end_fill() : detach();
      case 2: return take_over();
      case 3: return reset();
      case 4:
      case 5:
      case 6:
      case 7:
      case 8: return collect(Look::kAll);
      case 9:
      case 10:
      case 11: return collect(Look::kWritten);
      default: return checkpoint();
    }
  }

  void end() {
    if (guest_.filling()) guest_.end_fill();
    faults_ = false;
    collect(Look::kAll);
    collect(Look::kAll);
    guest_.check_entries();
    guest_.check_content();
  }

 private:
  enum class End { kDone, kThrew, kDied };

  // The guest acts, and the call fails or the engine dies, at random ones of its system calls.
  End run(const std::string& name, const std::function<void()>& call) {
    guest_.forget_touched();
    guest_.note(name);
    std::uint32_t& usual = usual_calls_[name];
    const bool acts_once = faults_ && guest_.chance(1, 4), acts_often = faults_ && guest_.chance(1, 8);
    const bool repeats = faults_ && guest_.chance(1, 20), fails = faults_ && guest_.chance(1, 12), dies = faults_ && guest_.chance(1, 12);
    const std::uint32_t act_at = guest_.below(usual + 1), fault_at = guest_.below(usual + 1);
    const bool late = guest_.chance(1, 2);
    bool failed = false, dead = false;
    std::uint32_t calls = 0;
    try {
      const SequencePoints points([&]() -> SequencePoints::Fate {
        const std::uint32_t number = calls++;
        if ((acts_once && number == act_at) || (acts_often && guest_.chance(1, 3))) guest_.act();
        if (dead) return {ESRCH};
        if (number != fault_at || !(repeats || fails || dies)) return {};
        if (!fails && !dies) return {EINTR};
        guest_.note(std::string(dies ? "  dies" : "  fails") + (late ? " after call " : " at call ") + std::to_string(number));
        (dies ? dead : failed) = true;
        return {dies ? ESRCH : EIO, late};
      });
      call();
    } catch (const Error&) {
      if (!failed && !dead) throw;
      return dead ? End::kDied : End::kThrew;
    }
    usual = calls;
    if (failed) guest_.fail(0, "and all others: a call failed, and nothing was thrown");
    return dead ? End::kDied : End::kDone;
  }

  // The claim outlives a detach: what nobody protects counts as written.
  void attach() {
    uffd_ = testing::new_uffd();
    make_tracker(true);
  }

  void make_tracker(bool fresh) {
    tracker_.reset();
    while (run("make a tracker", [&] {
             tracker_.emplace(uffd_.duplicate(), Fd::open("/proc/self/pagemap", O_RDONLY), guest_.ram(), fresh, guest_.mode().two_step,
                              guest_.mode().host_swaps_function());
           }) != End::kDone)
      tracker_.reset();
    if (!guest_.gives_back()) tracker_->pages_stay();
    guest_.take_entries(false);  // a read of memory that is not registered maps its neighbours, too
    everything_ = fresh;
    looked_ = false;
    collects_ = 0;
    for (Region& region : regions_) region.found = region.maybe_found = -kLatelyCollects;
    for (ModelPage& page : guest_.pages()) page.looked_mapped = Maybe::kYes;  // all that is unmapped is returned by the first collect()
  }

  // Lineage: with no claim, it looks at everything.
  void take_over() {
    guest_.take_entries(false);
    make_tracker(false);
    if (claim_) return;
    const bool faults = std::exchange(faults_, false);
    reset();
    faults_ = faults;
  }

  void detach() {
    const Fd of_qemu = uffd_.duplicate();  // closing all others unregisters nothing
    const End end = run("detach", [&] { tracker_->detach(); });
    if (end != End::kDone) return take_over();  // what is not registered any more counts as written
    guest_.take_entries(false);
    for (auto i = guest_.below(4); i > 0; --i) guest_.act();
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
    guest_.take_entries(false);
    for (Region& region : regions_) region.maybe_found = collects_;
  }

  void protected_everything() {
    for (ModelPage& page : guest_.pages()) {
      page.seen = page.now;
      if (guest_.written(page)) page.entry = page.entry == Entry::kNone ? Entry::kMarker : Entry::kProtected;
      page.looked_mapped = page.touched ? Maybe::kUnknown : guest_.unmapped(page) ? Maybe::kNo : Maybe::kYes;
    }
    guest_.take_entries(true);
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
    std::vector<PageRange> found;
    claim_ = false;
    left_.clear();
    if (look == Look::kAll) ++collects_;
    const End end = run(std::string(name_of(look)) + (everything_ ? ", everything" : ""), [&] {
      found = look == Look::kAll       ? tracker_->collect()
              : look == Look::kWritten ? tracker_->collect_written()
                                       : tracker_->collect_written_lately();
    });
    if (end == End::kDied) return take_over();
    if (end == End::kThrew) return gave_up();
    const std::vector<bool> returned = bitmap(found);
    if (everything_) {
      for (std::uint32_t i = 0; i < guest_.count(); ++i) {
        if (!returned[i]) return guest_.fail(i, "is not returned, after a failure");
      }
      return protected_everything();
    }
    for (Region& region : regions_) check_region(look, region, returned);
    guest_.take_entries(true);
    if (look == Look::kAll) looked_ = true;
    claim_ = true;
  }

  // Ascending, merged, inside blocks.
  std::vector<bool> bitmap(const std::vector<PageRange>& ranges) {
    std::vector<bool> out(guest_.count());
    std::uint32_t end = 0;
    for (const PageRange& range : ranges) {
      const std::uint32_t first = range.first.value;
      const RamBlock& block = guest_.ram().block_of(range.first);
      if (range.count == 0 || first < end || (first == end && first != block.first.value))
        guest_.fail(first, "begins a range that is not in order");
      end = first + range.count;
      if (end > block.first.value + (block.bytes >> kPageShift)) guest_.fail(first, "begins a range that crosses a block");
      for (std::uint32_t i = first; i < std::min(end, guest_.count()); ++i) out[i] = true;
    }
    return out;
  }

  void check_region(Look look, Region& region, const std::vector<bool>& returned) {
    const Maybe looked_at = look == Look::kLately ? lately(region) : Maybe::kYes;
    for (std::uint32_t i = region.pages.first.value; i < region.pages.first.value + region.pages.count; ++i) {
      ModelPage& page = guest_.pages()[i];
      if (page.touched) {
        region.maybe_found = collects_;
      } else {
        check_page(look, looked_at, i, returned[i]);
        if (returned[i] && guest_.written(page)) region.found = region.maybe_found = collects_;
      }
      after(look, page, returned[i]);
    }
  }

  // A page that nobody touched during the look.
  void check_page(Look look, Maybe looked_at, std::uint32_t number, bool returned) {
    const ModelPage& page = guest_.pages()[number];
    const Maybe gone = look == Look::kAll && guest_.gives_back() && guest_.unmapped(page) ? page.looked_mapped : Maybe::kNo;
    const bool must = (guest_.written(page) && looked_at == Maybe::kYes) || gone == Maybe::kYes;
    const bool may = (guest_.written(page) && looked_at != Maybe::kNo) || gone != Maybe::kNo;
    if (must && !returned) guest_.fail(number, "is not returned");
    if (!may && returned) guest_.fail(number, "is returned");
    const bool changed = page.now != page.seen && (look == Look::kAll || page.now != 0);
    if (returned || !changed) return;
    if (look == Look::kLately && looked_at != Maybe::kYes) {
      left_[number] = page.now;
      return;
    }
    guest_.fail(number, "is lost");
  }

  void after(Look look, ModelPage& page, bool returned) const {
    const bool protects_gone = look == Look::kAll && looked_ && guest_.gives_back();
    if (returned) {
      page.seen = page.now;
      if (page.entry == Entry::kWritten) page.entry = Entry::kProtected;
      if (page.entry == Entry::kNone && (protects_gone || guest_.written(page))) page.entry = Entry::kMarker;
    }
    if (look == Look::kAll) {
      page.looked_mapped = page.touched ? Maybe::kUnknown : guest_.unmapped(page) ? Maybe::kNo : Maybe::kYes;
    } else if (returned) {
      page.looked_mapped = Maybe::kYes;
    }
  }

  // As Checkpointer::pause_at_one_moment().
  void checkpoint() {
    collect(Look::kLately);
    if (failed() || !claim_) return;
    for (auto i = guest_.below(3); i > 1; --i) guest_.act();
    bool nothing = false;
    const End end = run("nothing_elsewhere", [&] { nothing = tracker_->nothing_elsewhere(); });
    if (end == End::kDied) return take_over();
    guest_.take_entries(true);
    bool sure = false, possible = false;
    for (Region& region : regions_) {
      const Maybe is_lately = lately(region);
      bool found = false, maybe_found = end == End::kThrew;
      for (std::uint32_t i = region.pages.first.value; i < region.pages.first.value + region.pages.count; ++i) {
        found |= is_lately == Maybe::kNo && !guest_.pages()[i].touched && guest_.written(guest_.pages()[i]);
        maybe_found |= is_lately != Maybe::kYes && (guest_.pages()[i].touched || guest_.written(guest_.pages()[i]));
      }
      if (found && end == End::kDone) region.found = collects_;
      if (found || maybe_found) region.maybe_found = collects_;
      sure |= found;
      possible |= maybe_found;
    }
    if (end == End::kThrew) return;
    guest_.note(nothing ? "  nothing" : "  something");
    if (nothing && sure) guest_.fail(0, "or another was written elsewhere, and it says nothing was");
    if (!nothing && !possible) guest_.fail(0, "and all others were not written elsewhere, and it says something was");
    for (const auto& [number, content] : left_) {
      if (nothing && guest_.pages()[number].now == content) return guest_.fail(number, "was left, and nothing is said to be elsewhere");
    }
    if (!nothing) collect(guest_.chance(1, 2) ? Look::kWritten : Look::kAll);
  }

  void idle() {
    const bool faults = std::exchange(faults_, false);
    for (std::int64_t i = kLatelyCollects - 1 + guest_.below(3); i > 0 && !failed(); --i) collect(Look::kAll);
    faults_ = faults;
  }

  ModelGuest guest_;
  std::vector<Region> regions_;
  Fd uffd_;
  std::optional<Tracker> tracker_;
  std::int64_t collects_ = 0;  // of this engine
  bool faults_ = true;
  bool everything_ = false;  // the next look returns every page
  bool looked_ = false;      // this engine has looked at what is mapped
  bool claim_ = false;       // what the kernel does not report is as it was returned
  // What collect_written_lately() left, and its content then.
  std::map<std::uint32_t, std::uint64_t> left_;
  std::map<std::string, std::uint32_t> usual_calls_;
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
