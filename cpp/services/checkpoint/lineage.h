// What the engine may assume about the pages of a running guest.
//
// INVARIANT: while base() is set, a page that is neither in unsaved() nor reported by the next Tracker::collect()
// equals checkpoint base(). Every look goes through gather(), so that a page which the tracker has reported stays
// in unsaved() until a checkpoint that holds it is durable. When the invariant cannot be proved, base() is not set and
// everything is read again.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "checkpoint/page_set.h"
#include "checkpoint/run_state.h"
#include "guest/tracker.h"

namespace mhv::checkpoint {

// One thread at a time; `state` outlives it.
class Lineage {
 public:
  // Believes what the run state says about a tracker that was taken over; a fresh one knows nothing.
  Lineage(std::uint32_t pages, RunState& state, bool fresh_tracker) : state_(state), unsaved_(pages) {
    if (!fresh_tracker && !state.base().empty()) base_ = state.base();
  }

  // Others who want to know of every page that was written: each is named by one call; nullptr: all may have been.
  void on_written(std::function<void(const std::vector<PageRange>*)> tell) { tell_ = std::move(tell); }

  const std::optional<std::string>& base() const { return base_; }
  const PageSet& unsaved() const { return unsaved_; }

  // From here on the kernel's written bits alone do not tell the difference to the base: a death loses the rest.
  // Returns the pages that may differ from the base; with no base, protects everything and returns all.
  PageSet begin(guest::Tracker& tracker) {
    state_.forget_base();
    if (base_) {
      gather(tracker, nullptr);
    } else {
      tracker.reset();
      unsaved_.add_all();
      if (tell_) tell_(nullptr);
    }
    return unsaved_;
  }

  // Adds what changed since the last call, to unsaved() and to `also`.
  void gather(guest::Tracker& tracker, PageSet* also) { add(tracker.collect(), also); }
  // Only what was written: what the guest gave back in the meantime, and so has no content, comes with the next gather().
  void gather_written(guest::Tracker& tracker, PageSet* also) { add(tracker.collect_written(), also); }

  // Only what was written where anything was lately: all of it if tracker.nothing_elsewhere() afterwards.
  void gather_written_lately(guest::Tracker& tracker, PageSet* also) { add(tracker.collect_written_lately(), also); }

  // Nothing is known until the next saved().
  void lose() {
    state_.forget_base();
    base_.reset();
  }

  // Checkpoint `id` is durable, and all that gather() returned so far is in it.
  void saved(const std::string& id) {
    unsaved_.clear();
    base_ = id;
    state_.set_base(id);
  }

 private:
  void add(const std::vector<PageRange>& pages, PageSet* also) {
    unsaved_.add(pages);
    if (tell_) tell_(&pages);
    if (also != nullptr) also->add(pages);
  }

  RunState& state_;
  std::optional<std::string> base_;
  PageSet unsaved_;
  std::function<void(const std::vector<PageRange>*)> tell_;
};

}  // namespace mhv::checkpoint
