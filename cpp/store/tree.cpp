#include "store/tree.h"

#include <algorithm>

namespace mhv::store {

LinkPtr Tree::find(const std::string& id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : found->second;
}

const std::vector<std::string>& Tree::children(const std::string& id) const {
  static const std::vector<std::string> kNone;
  const auto found = children_.find(id);
  return found == children_.end() ? kNone : found->second;
}

std::string Tree::visible_parent(const Link& link) const {
  std::string at = link.parent;
  for (LinkPtr parent = find(at); parent && parent->hidden; parent = find(at)) at = parent->parent;
  return at;
}

void Tree::take_out(const std::string& id) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return;
  const Link& link = *found->second;
  if (!link.hidden) --listed_;
  if (const auto siblings = children_.find(link.parent); siblings != children_.end()) {
    std::erase(siblings->second, id);
    if (siblings->second.empty()) children_.erase(siblings);
  }
  by_sequence_.erase(link.sequence);
  by_id_.erase(found);
}

void Tree::apply(const Transaction& transaction) {
  for (const std::string& id : transaction.gone) take_out(id);
  for (const Link& link : transaction.put) {
    take_out(link.id);
    const auto shared = std::make_shared<const Link>(link);
    by_id_[link.id] = shared;
    by_sequence_[link.sequence] = shared;
    if (!link.parent.empty()) children_[link.parent].push_back(link.id);
    if (!link.hidden) ++listed_;
  }
}

}  // namespace mhv::store
