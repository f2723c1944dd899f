#include "disk/history.h"

#include <algorithm>

#include "base/error.h"

namespace mhv::disk {

std::unique_ptr<History::Edge> History::new_edge() {
  auto edge = std::make_unique<Edge>();
  edge->id = next_edge_++;
  edges_[edge->id] = edge.get();
  return edge;
}

void History::hold(Where where, BlockNo block, std::uint32_t holder) {
  if (where == kInBase) map_.at(block).base_held = holder != Slots::kNow;
  if (where.in_log()) slots_.hold(where, block, holder);
}

void History::release(Where where, BlockNo block) {
  if (where == kInBase) map_.at(block).base_held = false;
  if (where.in_log()) slots_.release(where);
}

void History::release_all(Edge& edge) {
  for (const auto& [block, where] : edge.changes) release(where, block);
  edge.changes.clear();
}

void History::swap(Edge& edge) {
  for (auto& [block, where] : edge.changes) {
    std::swap(where, map_.at(block).where);
    hold(map_.at(block).where, block, Slots::kNow);
    hold(where, block, edge.id);
  }
}

void History::write(BlockNo block, Where where) {
  BlockState& state = map_.at(block);
  if (at_ != 0 && state.changed != open_->id) {
    open_->changes.emplace(block, state.where);
    hold(state.where, block, open_->id);
    state.changed = open_->id;
  } else {
    release(state.where, block);
  }
  state.where = where;
  hold(where, block, Slots::kNow);
}

void History::mark(const MarkName& name) {
  if (names_.contains(name)) throw Error(Code::kExists, "the disk has this mark already");
  const std::uint64_t number = next_node_++;
  Node node;
  node.name = name;
  node.parent = at_;
  node.edge = std::move(open_);
  if (at_ != 0) nodes_.at(at_).children.push_back(number);
  nodes_.emplace(number, std::move(node));
  names_[name] = number;
  at_ = number;
  open_ = new_edge();
}

void History::undo_open() {
  for (const auto& [block, before] : open_->changes) {
    BlockState& state = map_.at(block);
    release(state.where, block);
    state.where = before;
    hold(before, block, Slots::kNow);
  }
  edges_.erase(open_->id);
  open_ = new_edge();
}

void History::go(std::uint64_t to) {
  std::vector<std::uint64_t> down;
  std::uint64_t from = at_;
  at_ = to;
  while (from != to) {
    if (from > to) {
      Node& node = nodes_.at(from);
      swap(*node.edge);
      node.above_now = false;
      from = node.parent;
    } else {
      down.push_back(to);
      to = nodes_.at(to).parent;
    }
  }
  for (; !down.empty(); down.pop_back()) {
    Node& node = nodes_.at(down.back());
    swap(*node.edge);
    node.above_now = true;
  }
}

void History::rollback(const MarkName& name) {
  const auto found = names_.find(name);
  if (found == names_.end()) throw Error(Code::kNotFound, "the disk has no such mark");
  undo_open();
  const std::uint64_t left = at_;
  go(found->second);
  if (left != at_) tidy(left);
}

void History::drop(const MarkName& name) {
  const auto found = names_.find(name);
  if (found == names_.end()) throw Error(Code::kNotFound, "the disk has no such mark");
  const std::uint64_t number = found->second;
  names_.erase(found);
  nodes_.at(number).named = false;
  tidy(number);
}

void History::tidy(std::uint64_t number) {
  Node& node = nodes_.at(number);
  if (node.named) return;
  const bool now_is_child = at_ == number;
  if (node.children.empty() && !now_is_child) {
    const std::uint64_t parent = node.parent;
    release_all(*node.edge);
    edges_.erase(node.edge->id);
    nodes_.erase(number);
    if (parent == 0) return;
    std::erase(nodes_.at(parent).children, number);
    tidy(parent);
  } else if (node.children.empty()) {
    merge_into_now(number);
  } else if (node.children.size() == 1 && !now_is_child) {
    merge_into_child(number);
  }
}

void History::merge_into_now(std::uint64_t number) {
  Node node = std::move(nodes_.at(number));
  nodes_.erase(number);
  at_ = node.parent;
  if (node.parent == 0) {  // nothing is older: what came before is nobody's
    release_all(*open_);
    edges_.erase(node.edge->id);
    return;
  }
  std::erase(nodes_.at(node.parent).children, number);
  open_ = merge(std::move(node.edge), std::move(open_));
  for (const auto& [block, where] : open_->changes) map_.at(block).changed = open_->id;
}

void History::merge_into_child(std::uint64_t number) {
  Node node = std::move(nodes_.at(number));
  nodes_.erase(number);
  const std::uint64_t child_number = node.children.front();
  Node& child = nodes_.at(child_number);
  child.parent = node.parent;
  if (node.parent == 0) {
    release_all(*child.edge);
    edges_.erase(node.edge->id);
    return;
  }
  std::ranges::replace(nodes_.at(node.parent).children, number, child_number);
  child.edge = node.above_now ? merge(std::move(node.edge), std::move(child.edge)) : merge(std::move(child.edge), std::move(node.edge));
}

// Where both say something of a block, the far end's version is what the joined edge needs, and the other was the version of
// the node that goes.
std::unique_ptr<History::Edge> History::merge(std::unique_ptr<Edge> far, std::unique_ptr<Edge> near) {
  const bool into_far = far->changes.size() >= near->changes.size();
  Edge& into = into_far ? *far : *near;
  Edge& from = into_far ? *near : *far;
  for (const auto& [block, where] : from.changes) {
    const auto [held, fresh] = into.changes.try_emplace(block, where);
    if (!fresh && into_far) {
      release(where, block);
      continue;
    }
    if (!fresh) {
      release(held->second, block);
      held->second = where;
    }
    hold(where, block, into.id);
  }
  edges_.erase(from.id);
  return into_far ? std::move(far) : std::move(near);
}

std::vector<MarkName> History::marks() const {
  std::vector<std::pair<std::uint64_t, MarkName>> sorted;
  for (const auto& [name, number] : names_) sorted.emplace_back(number, name);
  std::ranges::sort(sorted);
  std::vector<MarkName> out;
  for (const auto& [number, name] : sorted) out.push_back(name);
  return out;
}

bool History::relocate(BlockNo block, Where from, Where to) {
  const Slots::Slot slot = slots_.at(from);
  if (slot.holder == Slots::kNobody || slot.block != block) return false;
  if (slot.holder == Slots::kNow) {
    map_.at(block).where = to;
  } else {
    edges_.at(slot.holder)->changes.at(block) = to;
  }
  slots_.release(from);
  hold(to, block, slot.holder);
  return true;
}

}  // namespace mhv::disk
