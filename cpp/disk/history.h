// The versions of every block: which the guest sees now, and which the marks see. In memory; the log is what makes it again.
//
// Marks form a tree, and now is a leaf of it (its parent is `at`). An edge holds the blocks that differ between its two ends, each
// with its version at the end that is FARTHER from now:
//
//        m1 ──edge── m2 ──edge── m3         {block: version as of m1}, {... as of m2}, the open edge {... as of m3}
//                     └──edge── m4          {block: version as of m4}
//        now hangs below m3
//
// So going to another mark swaps the edges on the way with the map (O(blocks changed between)), a mark costs nothing but its node,
// and every version is held exactly once: by the map, or by one edge. A version that nobody holds is garbage at once.
//
// INVARIANT (tested against plain arrays): what the map and the edges say of a mark's blocks never changes while the mark is kept.
// Nothing says so of the base image by itself: a block of it may be overwritten when base_free() says that no version needs it.
//
// Dropping a mark takes its name away. A node without a name goes when it is a leaf, merges with its child when it has one (the
// smaller edge goes into the larger one), and stays as a fork when it has more.
//
// One thread at a time. Deterministic: the same calls make the same history.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <unordered_map>
#include <vector>

#include "disk/block_map.h"
#include "disk/slots.h"

namespace mhv::disk {

class History {
 public:
  History(std::uint64_t blocks, std::uint32_t segment_blocks) : map_(blocks), slots_(segment_blocks), segment_blocks_(segment_blocks) {}

  std::uint64_t blocks() const { return map_.blocks(); }
  Where find(BlockNo block) const { return map_.find(block).where; }
  bool base_free(BlockNo block) const {
    const BlockState state = map_.find(block);
    return state.where != kInBase && !state.base_held;
  }
  const Slots& slots() const { return slots_; }
  const BlockMap& map() const { return map_; }

  void write(BlockNo block, Where where);
  void mark(const MarkName& name);      // kExists
  void rollback(const MarkName& name);  // kNotFound. Keeps all marks
  void drop(const MarkName& name);      // kNotFound
  bool has(const MarkName& name) const { return names_.contains(name); }
  std::vector<MarkName> marks() const;  // oldest first
  std::uint64_t mark_count() const { return names_.size(); }

  // The version in slot `from` stands in `to` from now on. False: nobody holds `from` any more, or it is another block's.
  bool relocate(BlockNo block, Where from, Where to);
  // A block that reads as zeros now has them in the base image from now on.
  void zeros_in_base(BlockNo block) { map_.at(block).where = kInBase; }

  // As words for the index, and back into an empty history. load() throws kCorrupt: what it reads may be anything. `segments`
  // are those that exist; a version in another one is damage.
  std::vector<std::uint64_t> save() const;
  void load(std::span<const std::uint64_t> words, const std::set<std::uint64_t>& segments);

 private:
  struct Edge {
    std::uint32_t id = 0;
    std::unordered_map<BlockNo, Where> changes;
  };
  struct Node {
    MarkName name;
    bool named = true;
    bool above_now = true;                // now hangs below it
    std::uint64_t parent = 0;             // 0: none
    std::unique_ptr<Edge> edge;           // to the parent
    std::vector<std::uint64_t> children;  // without now
  };

  std::unique_ptr<Edge> new_edge();
  void hold(Where where, BlockNo block, std::uint32_t holder);
  void release(Where where, BlockNo block);
  void release_all(Edge& edge);
  void swap(Edge& edge);
  void undo_open();
  void go(std::uint64_t to);
  void tidy(std::uint64_t number);
  void merge_into_now(std::uint64_t number);
  void merge_into_child(std::uint64_t number);
  std::unique_ptr<Edge> merge(std::unique_ptr<Edge> far, std::unique_ptr<Edge> near);
  void load_edge(Edge& edge, class WordReader& in);
  void check_slot(Where where) const;

  BlockMap map_;
  Slots slots_;
  std::uint32_t segment_blocks_;
  std::unordered_map<std::uint64_t, Node> nodes_;  // a child's number is greater than its parent's
  std::map<MarkName, std::uint64_t> names_;
  std::unordered_map<std::uint32_t, Edge*> edges_;
  std::uint64_t at_ = 0;  // 0: there are no nodes, and the open edge stays empty
  std::uint64_t next_node_ = 1;
  std::uint32_t next_edge_ = Slots::kNow + 1;
  std::unique_ptr<Edge> open_ = new_edge();
  const std::set<std::uint64_t>* known_segments_ = nullptr;  // while loading
};

}  // namespace mhv::disk
