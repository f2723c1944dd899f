// What a guest wrote, for all who want to know it: the kernel tells of a written page once.
//
// INVARIANT: everyone who listens is told before a look that from now on the kernel's bits alone do not say what they miss, and after it
// what it found, before whoever looked goes on. So nobody but this asks a guest's tracker what was written.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "guest/tracker.h"

namespace mhv::guest {

// One thread at a time. `tracker` outlives it.
class WrittenPages {
 public:
  struct Listener {
    std::function<void()> before_look = [] {};
    // What may differ from when it was told last; nullptr: any page.
    std::function<void(const std::vector<PageRange>*)> tell;
  };

  explicit WrittenPages(Tracker& tracker) : tracker_(tracker) {}

  // Listens for as long as what this returns is kept.
  [[nodiscard]] std::shared_ptr<const Listener> listen(Listener listener) {
    auto out = std::make_shared<const Listener>(std::move(listener));
    listeners_.push_back(out);
    return out;
  }

  // As the tracker's.
  std::vector<PageRange> collect() { return look(&Tracker::collect); }
  std::vector<PageRange> collect_written() { return look(&Tracker::collect_written); }
  std::vector<PageRange> collect_written_lately() { return look(&Tracker::collect_written_lately); }
  // Everything is protected, and from here on only what is written is reported.
  void reset() {
    announce();
    tracker_.reset();
    tell(nullptr);
  }

 private:
  std::vector<PageRange> look(std::vector<PageRange> (Tracker::*how)()) {
    announce();
    std::vector<PageRange> pages = (tracker_.*how)();
    tell(&pages);
    return pages;
  }
  void announce() {
    std::erase_if(listeners_, [](const auto& listener) { return listener.expired(); });
    for (const auto& listener : listeners_) listener.lock()->before_look();
  }
  void tell(const std::vector<PageRange>* pages) {
    for (const auto& listener : listeners_) listener.lock()->tell(pages);
  }

  Tracker& tracker_;
  std::vector<std::weak_ptr<const Listener>> listeners_;
};

}  // namespace mhv::guest
