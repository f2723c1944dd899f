// The kernel's ways to hold things together, followed with a bound: a guest may forge any link.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "integrity/reader.h"

namespace mhv::integrity {

// A list_head's members, without the head. nullopt: a link does not lead back, or there are more than `max`.
std::optional<std::vector<GuestVirt>> walk_list(Reader& reader, GuestVirt head, std::size_t max);

// The nodes of an rb_root, in no order. nullopt: a node is not there, does not name its parent, or there are more than `max`.
std::optional<std::vector<GuestVirt>> walk_tree(Reader& reader, GuestVirt root, std::size_t max);

// What stands in a radix tree (struct xarray).
class RadixTree {
 public:
  explicit RadixTree(const Kernel& kernel);
  // nullopt: a node is not there, or there are more than `max` entries.
  std::optional<std::vector<GuestVirt>> entries(Reader& reader, GuestVirt tree, std::size_t max) const;

 private:
  std::uint32_t head_, slots_, shift_;
};

}  // namespace mhv::integrity
