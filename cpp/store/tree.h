// The tree of checkpoints in memory: what CATALOG and the frames behind it say.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "store/format.h"

namespace mhv::store {

using LinkPtr = std::shared_ptr<const Link>;

// Readers may share it while nobody changes it.
class Tree {
 public:
  LinkPtr find(const std::string& id) const;  // nullptr: there is none; also finds hidden ones
  const std::vector<std::string>& children(const std::string& id) const;
  // Oldest first, hidden ones too.
  const std::map<std::uint64_t, LinkPtr>& all() const { return by_sequence_; }
  std::size_t listed() const { return listed_; }
  // The nearest ancestor that is not hidden; "": none.
  std::string visible_parent(const Link& link) const;
  void apply(const Transaction& transaction);

 private:
  void take_out(const std::string& id);

  std::unordered_map<std::string, LinkPtr> by_id_;
  std::map<std::uint64_t, LinkPtr> by_sequence_;
  std::unordered_map<std::string, std::vector<std::string>> children_;
  std::size_t listed_ = 0;
};

}  // namespace mhv::store
