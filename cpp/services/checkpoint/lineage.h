// What the engine may assume about the pages of a running guest.
//
// INVARIANT: while base() is set, a page that is neither in unsaved() nor reported by the next Tracker::collect()
// equals checkpoint base(). It listens to every look, whoever takes it: before one, the run state's claim is withdrawn, for then
// the kernel's written bits alone no longer tell the difference to the base, and a death loses the rest; and a page that
// was reported stays in unsaved() until a checkpoint that holds it is durable. When the invariant cannot be proved,
// base() is not set and everything is read again.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "checkpoint/run_state.h"
#include "guest/page_set.h"
#include "guest/written_pages.h"

namespace mhv::checkpoint {

// One thread at a time; `written` and `state` outlive it.
class Lineage {
 public:
  // Believes what the run state says about a tracker that was taken over; a fresh one knows nothing. `pages`: how many the guest has.
  Lineage(std::uint32_t pages, guest::WrittenPages& written, RunState& state, bool fresh_tracker)
      : written_(written),
        state_(state),
        unsaved_(pages),
        listener_(written.listen({[this] { state_.forget_base(); }, [this](const auto* ranges) { add(ranges); }})) {
    if (!fresh_tracker && !state.base().empty()) base_ = state.base();
  }
  Lineage(const Lineage&) = delete;
  Lineage& operator=(const Lineage&) = delete;

  const std::optional<std::string>& base() const { return base_; }
  const guest::PageSet& unsaved() const { return unsaved_; }

  // Returns the pages that may differ from the base; with no base, protects everything and returns all.
  guest::PageSet begin() {
    if (base_) {
      written_.collect();
    } else {
      written_.reset();
    }
    return unsaved_;
  }

  // Nothing is known until the next saved().
  void lose() {
    state_.forget_base();
    base_.reset();
  }

  // Checkpoint `id` is durable, and all that was reported so far is in it.
  void saved(const std::string& id) {
    unsaved_.clear();
    base_ = id;
    state_.set_base(id);
  }

 private:
  void add(const std::vector<PageRange>* ranges) {
    if (ranges == nullptr) {
      unsaved_.add_all();
    } else {
      unsaved_.add(*ranges);
    }
  }

  guest::WrittenPages& written_;
  RunState& state_;
  std::optional<std::string> base_;
  guest::PageSet unsaved_;
  const std::shared_ptr<const guest::WrittenPages::Listener> listener_;
};

}  // namespace mhv::checkpoint
