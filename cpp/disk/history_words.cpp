// A history as a row of 64-bit words:
//
//   next_node, at, nodes, { number, name.high, name.low, named, parent, edge }..., edge (the open one), edge (the map)
//   edge: n, { block, where } * n
#include <algorithm>

#include "base/error.h"
#include "disk/history.h"

namespace mhv::disk {

// Takes words one by one; throws where there are none.
class WordReader {
 public:
  explicit WordReader(std::span<const std::uint64_t> words) : words_(words) {}
  std::uint64_t next() {
    if (words_.empty()) damaged();
    const std::uint64_t word = words_.front();
    words_ = words_.subspan(1);
    return word;
  }
  // A count of things of `each` words that must still be there.
  std::uint64_t count(std::uint64_t each) {
    const std::uint64_t n = next();
    if (n > words_.size() / each) damaged();
    return n;
  }
  bool empty() const { return words_.empty(); }
  [[noreturn]] static void damaged() { throw Error(Code::kCorrupt, "a journal's index does not make sense"); }

 private:
  std::span<const std::uint64_t> words_;
};

std::vector<std::uint64_t> History::save() const {
  std::vector<std::uint64_t> out{next_node_, at_, nodes_.size()};
  const auto put_edge = [&out](const Edge& edge) {
    out.push_back(edge.changes.size());
    for (const auto& [block, where] : edge.changes) out.push_back(block), out.push_back(where.value);
  };
  std::vector<std::uint64_t> numbers;
  for (const auto& [number, node] : nodes_) numbers.push_back(number);
  std::ranges::sort(numbers);
  for (const std::uint64_t number : numbers) {
    const Node& node = nodes_.at(number);
    for (const std::uint64_t word : {number, node.name.high, node.name.low, std::uint64_t{node.named}, node.parent}) out.push_back(word);
    put_edge(*node.edge);
  }
  put_edge(*open_);
  const std::size_t count_at = out.size();
  out.push_back(0);
  map_.for_each([&](BlockNo block, Where where) { out.push_back(block), out.push_back(where.value); });
  out[count_at] = (out.size() - count_at - 1) / 2;
  return out;
}

void History::check_slot(Where where) const {
  if (!where.in_log()) return;
  if (!known_segments_->contains(where.value / segment_blocks_) || slots_.at(where).holder != Slots::kNobody) WordReader::damaged();
}

// Every slot is held once, and the base image's block at most by one edge: anything else would be freed twice.
void History::load_edge(Edge& edge, WordReader& in) {
  for (std::uint64_t n = in.count(2); n > 0; --n) {
    const BlockNo block = in.next();
    const Where where{in.next()};
    if (block >= blocks() || !edge.changes.emplace(block, where).second) WordReader::damaged();
    check_slot(where);
    if (where == kInBase && map_.at(block).base_held) WordReader::damaged();
    hold(where, block, edge.id);
  }
}

void History::load(std::span<const std::uint64_t> words, const std::set<std::uint64_t>& segments) {
  WordReader in(words);
  known_segments_ = &segments;
  next_node_ = in.next();
  at_ = in.next();
  for (std::uint64_t n = in.count(6); n > 0; --n) {
    const std::uint64_t number = in.next();
    Node node;
    node.name.high = in.next();
    node.name.low = in.next();
    node.named = in.next() != 0;
    node.parent = in.next();
    node.above_now = false;
    node.edge = new_edge();
    load_edge(*node.edge, in);
    const bool known_parent = node.parent == 0 ? node.edge->changes.empty() && nodes_.empty() : nodes_.contains(node.parent);
    if (number == 0 || number >= next_node_ || number <= node.parent || !known_parent) WordReader::damaged();
    if (node.named && !names_.emplace(node.name, number).second) WordReader::damaged();
    if (node.parent != 0) nodes_.at(node.parent).children.push_back(number);
    if (!nodes_.emplace(number, std::move(node)).second) WordReader::damaged();
  }
  if ((at_ == 0) != nodes_.empty() || (at_ != 0 && !nodes_.contains(at_))) WordReader::damaged();
  for (std::uint64_t up = at_; up != 0; up = nodes_.at(up).parent) nodes_.at(up).above_now = true;
  load_edge(*open_, in);
  if (at_ == 0 && !open_->changes.empty()) WordReader::damaged();
  for (const auto& [block, where] : open_->changes) map_.at(block).changed = open_->id;
  for (std::uint64_t n = in.count(2); n > 0; --n) {
    const BlockNo block = in.next();
    const Where where{in.next()};
    if (block >= blocks() || where == kInBase || find(block) != kInBase) WordReader::damaged();
    check_slot(where);
    map_.at(block).where = where;
    hold(where, block, Slots::kNow);
  }
  // A block that an edge has from the base image, and the map too, would be held twice.
  const auto base_held_twice = [this](const Edge& edge) {
    return std::ranges::any_of(edge.changes,
                               [this](const auto& change) { return change.second == kInBase && find(change.first) == kInBase; });
  };
  bool twice = base_held_twice(*open_);
  for (const auto& [number, node] : nodes_) twice = twice || base_held_twice(*node.edge);
  if (twice || !in.empty()) WordReader::damaged();
  known_segments_ = nullptr;
}

}  // namespace mhv::disk
