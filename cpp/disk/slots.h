// Who holds each slot of the log: the other direction of the maps, so that a segment can be emptied without a search.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "disk/types.h"

namespace mhv::disk {

// A holder is the map of now (kNow), or an edge of the history by its id. One thread at a time.
class Slots {
 public:
  static constexpr std::uint32_t kNobody = 0;
  static constexpr std::uint32_t kNow = 1;
  struct Slot {
    BlockNo block = 0;
    std::uint32_t holder = kNobody;
  };

  explicit Slots(std::uint32_t segment_blocks) : segment_blocks_(segment_blocks) {}

  void hold(Where slot, BlockNo block, std::uint32_t holder) {
    Segment& segment = segments_[slot.value / segment_blocks_];
    if (segment.slots.empty()) segment.slots.resize(segment_blocks_);
    Slot& at = segment.slots[slot.value % segment_blocks_];
    if (at.holder == kNobody) ++segment.live, ++live_;
    at = {block, holder};
  }
  void release(Where slot) {
    const auto found = segments_.find(slot.value / segment_blocks_);
    if (found == segments_.end()) return;
    Slot& at = found->second.slots[slot.value % segment_blocks_];
    if (at.holder == kNobody) return;
    at.holder = kNobody;
    --live_;
    if (--found->second.live == 0) segments_.erase(found);
  }
  Slot at(Where slot) const {
    const auto found = segments_.find(slot.value / segment_blocks_);
    return found == segments_.end() ? Slot{} : found->second.slots[slot.value % segment_blocks_];
  }
  // Slots of a segment that somebody holds; a segment of none needs not be kept.
  std::uint32_t live(std::uint64_t segment) const {
    const auto found = segments_.find(segment);
    return found == segments_.end() ? 0 : found->second.live;
  }
  std::uint64_t live() const { return live_; }
  std::vector<std::pair<Where, Slot>> list(std::uint64_t segment) const {
    std::vector<std::pair<Where, Slot>> out;
    const auto found = segments_.find(segment);
    if (found == segments_.end()) return out;
    out.reserve(found->second.live);
    for (std::uint32_t i = 0; i < segment_blocks_; ++i) {
      if (found->second.slots[i].holder != kNobody) out.push_back({{segment * segment_blocks_ + i}, found->second.slots[i]});
    }
    return out;
  }

 private:
  struct Segment {
    std::vector<Slot> slots;
    std::uint32_t live = 0;
  };
  std::uint32_t segment_blocks_;
  std::uint64_t live_ = 0;
  std::map<std::uint64_t, Segment> segments_;
};

}  // namespace mhv::disk
