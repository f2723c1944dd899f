#include "integrity/trees.h"

#include <array>

namespace mhv::integrity {

std::optional<std::vector<GuestVirt>> walk_list(Reader& reader, GuestVirt head, std::size_t max) {
  struct Links {
    GuestVirt next, prev;
  };
  std::vector<GuestVirt> out;
  auto links = reader.get<Links>(head);
  for (GuestVirt at = head; links; at = out.back()) {
    const GuestVirt next = links->next;
    links = reader.get<Links>(next);
    if (!links || links->prev != at) return std::nullopt;
    if (next == head) return out;
    if (out.size() == max) return std::nullopt;
    out.push_back(next);
  }
  return std::nullopt;
}

std::optional<std::vector<GuestVirt>> walk_tree(Reader& reader, GuestVirt root, std::size_t max) {
  struct Node {
    std::uint64_t parent_and_color;
    GuestVirt right, left;
  };
  std::vector<GuestVirt> out;
  if (root.value == 0) return out;
  out.push_back(root);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto node = reader.get<Node>(out[i]);
    if (!node) return std::nullopt;
    for (const GuestVirt child : {node->left, node->right}) {
      if (child.value == 0) continue;
      if (out.size() == max || (reader.word(child) & ~std::uint64_t{3}) != out[i].value) return std::nullopt;
      out.push_back(child);
    }
  }
  return out;
}

RadixTree::RadixTree(const Kernel& kernel)
    : head_(kernel.offset("xarray", "xa_head")), slots_(kernel.offset("xa_node", "slots")), shift_(kernel.offset("xa_node", "shift")) {}

// A node's entry says with its two lowest bits what it is (include/linux/xarray.h): 0 what was stored, 2 a node, or something of the tree's
// own when it is below 4096.
std::optional<std::vector<GuestVirt>> RadixTree::entries(Reader& reader, GuestVirt tree, std::size_t max) const {
  constexpr std::size_t kSlots = 64;
  constexpr std::uint64_t kKind = 3, kNode = 2, kOwnMax = 4096;
  constexpr std::uint8_t kShiftMax = 60;
  struct Step {
    GuestVirt entry;
    unsigned shift_max;
  };
  std::vector<GuestVirt> out;
  std::vector<Step> todo{{{reader.word(tree + head_)}, kShiftMax}};
  std::size_t nodes = 0;
  while (!todo.empty()) {
    const Step step = todo.back();
    todo.pop_back();
    if ((step.entry.value & kKind) == 0 && step.entry.value != 0) {
      if (out.size() == max) return std::nullopt;
      out.push_back(step.entry);
    }
    if ((step.entry.value & kKind) != kNode || step.entry.value <= kOwnMax) continue;
    const GuestVirt node{step.entry.value - kNode};
    const auto shift = reader.get<std::uint8_t>(node + shift_);
    const auto slots = reader.get<std::array<GuestVirt, kSlots>>(node + slots_);
    // Shifts fall on the way down, so no loop is followed.
    if (!shift || !slots || *shift > step.shift_max || ++nodes > max) return std::nullopt;
    for (const GuestVirt entry : *slots) {
      const bool is_node = (entry.value & kKind) == kNode && entry.value > kOwnMax;
      if (is_node && *shift == 0) return std::nullopt;
      if (entry.value != 0) todo.push_back({entry, *shift == 0 ? 0u : *shift - 1u});
    }
  }
  return out;
}

}  // namespace mhv::integrity
