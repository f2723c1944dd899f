// What the guest sees now: for each block where its version stands. Takes memory only for what was touched.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "disk/types.h"

namespace mhv::disk {

struct BlockState {
  Where where = kInBase;
  std::uint32_t changed = 0;  // the id of the last open edge that wrote the block down
  bool base_held = false;     // an edge needs what the base image has of this block
};

// One thread at a time.
class BlockMap {
 public:
  explicit BlockMap(std::uint64_t blocks) : blocks_(blocks), leaves_((blocks + kLeafBlocks - 1) / kLeafBlocks) {}

  std::uint64_t blocks() const { return blocks_; }
  BlockState find(BlockNo block) const {
    const auto& leaf = leaves_[block / kLeafBlocks];
    return leaf ? (*leaf)[block % kLeafBlocks] : BlockState{};
  }
  BlockState& at(BlockNo block) {
    auto& leaf = leaves_[block / kLeafBlocks];
    if (!leaf) leaf = std::make_unique<Leaf>();
    return (*leaf)[block % kLeafBlocks];
  }
  // Every block that does not stand in the base image, in order.
  template <typename Fn>
  void for_each(Fn&& fn) const {
    for (std::uint64_t i = 0; i < leaves_.size(); ++i) {
      for (std::uint64_t j = 0; leaves_[i] && j < kLeafBlocks; ++j) {
        const Where where = (*leaves_[i])[j].where;
        if (where != kInBase) fn(i * kLeafBlocks + j, where);
      }
    }
  }

 private:
  static constexpr std::uint64_t kLeafBlocks = 512;  // 2 MiB of disk, 8 KiB of table
  using Leaf = std::array<BlockState, kLeafBlocks>;
  std::uint64_t blocks_;
  std::vector<std::unique_ptr<Leaf>> leaves_;
};

}  // namespace mhv::disk
