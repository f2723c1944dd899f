// Deleting checkpoints.
//
// A deletion is one frame: all of it happens, or nothing. Who is deleted becomes hidden; then
//   - a hidden link on which nothing stands goes, and so does a hidden parent of which it was the only child;
//   - below hidden links up to a root, a link with a table becomes the root, its table its entries: nothing is copied;
//   - a hidden link with one child is folded into it, but only while it has at most twice the entries of the child: so a batch
//     of deletions costs what the checkpoints involved say, not what the root does, which says all of RAM. What is left
//     above are links that grow twofold from one to the next, few of them; what the links below write over in them counts
//     for nothing (visible_entries()).
// Links are only ever replaced by such as mean the same for every listed checkpoint. Space is given back by compact.cpp.
#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "store/store_impl.h"

namespace mhv::store {
namespace {

// What a deletion does to the tree, before anything of it is written.
class Removal {
 public:
  Removal(const Store::Impl& store, Appender& appender) : store_(store), appender_(appender) {}

  void hide(const std::string& id) {
    edit(id).hidden = true;
    touched_.push_back(id);
  }
  // Lets go of `id` and of hidden links above, as long as nothing stands on them.
  void prune(const std::string& id);
  // The link, which has a table, needs no parent any more.
  void make_root(const std::string& id);
  // Folds and makes roots, wherever something has changed.
  void settle();
  Transaction transaction() const;
  std::uint64_t let_go() const { return let_go_; }
  const std::vector<PageKey>& named() const { return named_; }

 private:
  // The link as it will be; nullptr: gone, or there is none.
  const Link* find(const std::string& id);
  Link& edit(const std::string& id);
  std::vector<std::string>& children(const std::string& id);
  void drop(const std::string& id);
  bool hidden_to_the_root(const std::string& id);
  bool alone_below_hidden(const Link& link);
  void fold(const std::string& id);
  void settle(std::string id);

  const Store::Impl& store_;
  Appender& appender_;
  std::unordered_map<std::string, std::optional<Link>> edited_;  // nullopt: gone
  std::unordered_map<std::string, std::vector<std::string>> children_;
  std::vector<std::string> touched_;  // hidden, or with a child less
  std::vector<PageKey> named_;        // by entries that were written
  std::uint64_t let_go_ = 0;          // entries
};

const Link* Removal::find(const std::string& id) {
  if (const auto edited = edited_.find(id); edited != edited_.end()) return edited->second ? &*edited->second : nullptr;
  return store_.tree.find(id).get();
}

Link& Removal::edit(const std::string& id) {
  const auto found = edited_.find(id);
  if (found != edited_.end()) return *found->second;
  return *edited_.emplace(id, *store_.tree.find(id)).first->second;
}

std::vector<std::string>& Removal::children(const std::string& id) {
  const auto found = children_.find(id);
  if (found != children_.end()) return found->second;
  return children_.emplace(id, store_.tree.children(id)).first->second;
}

void Removal::drop(const std::string& id) {
  const Link* const link = find(id);
  if (!link->parent.empty()) std::erase(children(link->parent), id);
  let_go_ += link->entries_count;
  edited_[id] = std::nullopt;
}

void Removal::prune(const std::string& id) {
  std::string at = id;
  for (const Link* link = find(at); link != nullptr && link->hidden && children(at).empty(); link = find(at)) {
    const std::string parent = link->parent;
    drop(at);
    at = parent;
  }
  touched_.push_back(at);
}

void Removal::make_root(const std::string& id) {
  Link& link = edit(id);
  const std::string parent = link.parent;
  std::erase(children(parent), id);
  link.parent.clear();
  if (!link.table.empty()) {
    link.entries = std::move(link.table);
    link.entries_count = 0;
    for (const Ref& ref : link.entries) link.entries_count += entries_in(ref.stored);
    link.table.clear();
    link.walk = 0;
  }
  prune(parent);
}

bool Removal::hidden_to_the_root(const std::string& id) {
  std::string at = id;
  for (const Link* link = find(at); link != nullptr; link = find(at)) {
    if (!link->hidden) return false;
    at = link->parent;
  }
  return true;
}

bool Removal::alone_below_hidden(const Link& link) {
  const Link* const parent = find(link.parent);
  return parent != nullptr && parent->hidden && children(link.parent).size() == 1;
}

// Takes hidden links above into `id`, the newest entry of a page counting.
void Removal::fold(const std::string& id) {
  const Link* child = find(id);
  std::unordered_map<std::uint32_t, PageKey> merged;
  const auto take_in = [&](const Link& link) {
    for (const PageEntry& entry : store_.load_entries(link)) merged.try_emplace(entry.page.value, entry.key);
  };
  const auto fits = [&](const Link& parent, std::uint64_t entries) {
    return parent.entries_count <= 2 * std::max<std::uint64_t>(entries, 32);
  };
  if (!alone_below_hidden(*child) || !fits(*find(child->parent), child->entries_count)) return;
  take_in(*child);
  let_go_ += child->entries_count;
  std::string at = child->parent;
  while (true) {
    const Link* const parent = find(at);
    take_in(*parent);
    const std::string above = parent->parent;
    const bool more = alone_below_hidden(*parent) && fits(*find(above), merged.size());
    drop(at);
    if (!above.empty() && !more) children(above).push_back(id);
    at = above;
    if (!more) break;
  }
  Link& link = edit(id);
  link.parent = at;
  std::vector<PageEntry> entries;
  entries.reserve(merged.size());
  for (const auto& [page, key] : merged) entries.push_back({PageNo{page}, key});
  std::sort(entries.begin(), entries.end(), [](const PageEntry& a, const PageEntry& b) { return a.page < b.page; });
  for (const PageEntry& entry : entries) named_.push_back(entry.key);
  link.entries = append_entries(appender_, entries);
  link.entries_count = entries.size();
  let_go_ -= std::min<std::uint64_t>(let_go_, entries.size());
}

void Removal::settle() {
  while (!touched_.empty()) {
    std::string id = std::move(touched_.back());
    touched_.pop_back();
    settle(std::move(id));
  }
}

// What stands below a hidden link takes its place or takes it in.
void Removal::settle(std::string id) {
  const Link* link = find(id);
  std::string lowest;  // with a table: nobody needs what is above it
  for (; link != nullptr; link = find(id)) {
    if (!link->table.empty() && !link->parent.empty()) lowest = id;
    if (!link->hidden || children(id).size() != 1) break;
    id = children(id).front();
  }
  if (link == nullptr) return;
  if (!lowest.empty() && hidden_to_the_root(find(lowest)->parent)) make_root(lowest);
  for (const Link* parent = link; parent != nullptr; parent = find(find(id)->parent)) {
    if (parent->id != id && !parent->hidden) break;
    id = parent->id;
    if (alone_below_hidden(*find(id))) fold(id);
  }
}

Transaction Removal::transaction() const {
  Transaction out;
  for (const auto& [id, link] : edited_) {
    if (link) {
      out.put.push_back(*link);
    } else {
      out.gone.push_back(id);
    }
  }
  return out;
}

}  // namespace

void Store::Impl::commit(Appender& appender, const Transaction& transaction) {
  appender.commit(number + 1, transaction);
  bool begun = false;
  {
    const std::unique_lock guard(mutex);
    begun = appender.publish(index);
    tree.apply(transaction);
    ++number;
  }
  segments.save_indexes(false);
  if (!begun) return;
  try {
    save_catalog();         // so that the next open() reads no more than a segment of the log
  } catch (const Error&) {  // it reads more then
  }
}

void Store::Impl::remove(const std::vector<std::string>& ids, const std::set<std::string>& unreadable) {
  drop_moved();
  for (const std::string& id : ids) {
    const LinkPtr known = tree.find(id);
    if (!known || known->hidden) throw Error(Code::kNotFound, "no checkpoint " + id, "list the guest's checkpoints");
  }
  if (ids.empty()) return;
  if (std::set<std::string>(ids.begin(), ids.end()).size() >= tree.listed()) {
    remove_all();
    return;
  }
  Appender appender(segments);
  Removal removal(*this, appender);
  for (const std::string& id : ids) removal.hide(id);
  for (const std::string& id : unreadable) {
    for (const std::string& child : tree.children(id)) {
      if (!tree.find(child)->table.empty()) removal.make_root(child);
    }
  }
  for (const std::string& id : ids) removal.prune(id);
  removal.settle();
  const Transaction transaction = removal.transaction();
  commit(appender, transaction);
  for (const PageKey& key : removal.named()) mark_live(key);
  cycle.let_go += removal.let_go();
  const std::unique_lock guard(mutex);
  if (!tree.find(table_id) || tree.find(table_id)->hidden) {
    table_id.clear();
    table.clear();
  }
  if (!broken.empty()) find_broken();
}

// The new CATALOG is the moment at which all of them are gone.
void Store::Impl::remove_all() {
  drop_moved();
  std::vector<std::uint32_t> numbers;
  for (const auto& [segment, state] : segments.all()) numbers.push_back(segment);
  Tree taken;
  const auto empty = [&] {
    const std::unique_lock guard(mutex);
    std::swap(taken, tree);
  };
  empty();
  const std::uint32_t first_before = first_segment;
  first_segment = segments.end().segment + 1;
  try {
    save_catalog();
  } catch (const Error&) {
    first_segment = first_before;
    empty();
    throw;
  }
  {
    const std::unique_lock guard(mutex);
    broken.clear();
    table_id.clear();
    table.clear();
    index = KeyIndex();
    segments.forget(numbers);
    problems.clear();
  }
  cycle = Cycle();
  cycle.moved = numbers;
  drop_moved();
}

}  // namespace mhv::store
