#include "store/store.h"

#include <algorithm>

#include "base/error.h"
#include "store/store_impl.h"

namespace mhv::store {

WriteToken::WriteToken(std::atomic_flag& flag) : flag_(flag) {
  if (flag.test_and_set()) throw Error(Code::kBusy, "a checkpoint of this guest is being written or deleted", "try again when it is done");
}

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::~Store() = default;

std::unique_ptr<Store> Store::open(const std::string& folder, const StoreOptions& options) {
  auto impl = std::make_unique<Impl>(folder, options);
  impl->open();
  return std::unique_ptr<Store>(new Store(std::move(impl)));
}

PageKey Store::key_of(std::span<const std::byte, kPageSize> page) const { return (*impl_->name)(page); }

bool Store::encrypted() const { return impl_->seals.has_value(); }

std::size_t Store::count() const {
  const std::shared_lock guard(impl_->mutex);
  return impl_->tree.listed() - static_cast<std::size_t>(std::ranges::count_if(impl_->broken, [&](const auto& one) {
           const LinkPtr link = impl_->tree.find(one.first);
           return link && !link->hidden;
         }));
}

bool Store::contains(const std::string& id) const {
  const std::shared_lock guard(impl_->mutex);
  const LinkPtr link = impl_->tree.find(id);
  return link && !link->hidden && !impl_->broken.contains(id);
}

std::vector<CheckpointInfo> Store::list(const std::string& after, std::size_t limit) const {
  struct Found {
    LinkPtr link;
    std::string parent;
    Pinned info;
  };
  std::vector<Found> found;
  {
    const std::shared_lock guard(impl_->mutex);
    auto at = impl_->tree.all().begin();
    if (!after.empty()) at = impl_->tree.all().upper_bound(impl_->link(after)->sequence);
    for (; at != impl_->tree.all().end() && found.size() < limit; ++at) {
      const LinkPtr& link = at->second;
      if (link->hidden || impl_->broken.contains(link->id)) continue;
      found.push_back({link, impl_->tree.visible_parent(*link), impl_->pin(link->info)});
    }
  }
  std::vector<CheckpointInfo> out;
  out.reserve(found.size());
  for (const Found& one : found) out.push_back(impl_->describe(one.link, one.parent, one.info));
  return out;
}

std::optional<CheckpointInfo> Store::newest() const {
  LinkPtr link;
  std::string parent;
  Pinned info;
  {
    const std::shared_lock guard(impl_->mutex);
    const auto& all = impl_->tree.all();
    const auto at = std::find_if(all.rbegin(), all.rend(),
                                 [&](const auto& one) { return !one.second->hidden && !impl_->broken.contains(one.second->id); });
    if (at == all.rend()) return std::nullopt;
    link = at->second;
    parent = impl_->tree.visible_parent(*link);
    info = impl_->pin(link->info);
  }
  return impl_->describe(link, parent, info);
}

std::vector<keep::Moment> Store::automatic() const {
  const std::shared_lock guard(impl_->mutex);
  std::vector<keep::Moment> out;
  for (const auto& [sequence, link] : impl_->tree.all()) {
    if (link->automatic && !link->hidden && !impl_->broken.contains(link->id)) out.push_back({link->id, link->created_ns});
  }
  return out;
}

CheckpointInfo Store::get_without_xml(const std::string& id) const {
  InfoRecord about;
  return impl_->get(id, about);
}

CheckpointInfo Store::get(const std::string& id) const {
  InfoRecord about;
  CheckpointInfo out = impl_->get(id, about);
  const auto xml = impl_->read_blob(about.domain_xml, about.domain_xml_bytes);
  out.domain_xml.assign(reinterpret_cast<const char*>(xml.data()), xml.size());
  return out;
}

PageTable Store::resolve(const std::string& id) const { return impl_->resolve(id); }

// The pages that the links between the two name; where no path joins them, all that differ.
std::vector<PageEntry> Store::difference(const std::string& from, const std::string& to) const {
  std::vector<std::vector<Pinned>> path;
  bool joined = true;
  {
    const std::shared_lock guard(impl_->mutex);
    LinkPtr a = impl_->link(from), b = impl_->link(to);
    while (a != b) {
      LinkPtr& later = a->sequence > b->sequence ? a : b;  // no ancestor of the other, for a parent's sequence is smaller
      path.push_back(impl_->pin(later->entries));
      later = impl_->tree.find(later->parent);
      if (!later) {
        joined = false;
        break;
      }
    }
  }
  const PageTable target = impl_->resolve(to);
  std::vector<PageEntry> out;
  if (!joined) {
    const PageTable source = impl_->resolve(from);
    for (std::size_t i = 0; i < target.size(); ++i) {
      if (i >= source.size() || source[i] != target[i]) out.push_back({PageNo{static_cast<std::uint32_t>(i)}, target[i]});
    }
    return out;
  }
  for (const auto& part : path) {
    const auto entries = impl_->load_entries(part);
    out.insert(out.end(), entries.begin(), entries.end());
  }
  std::sort(out.begin(), out.end(), [](const PageEntry& x, const PageEntry& y) { return x.page < y.page; });
  const auto same = [](const PageEntry& x, const PageEntry& y) { return x.page == y.page; };
  out.erase(std::unique(out.begin(), out.end(), same), out.end());
  for (PageEntry& entry : out) entry.key = entry.page.value < target.size() ? target[entry.page.value] : PageKey{};
  return out;
}

void Store::read(const PageKey& key, std::span<std::byte, kPageSize> out) const { impl_->read(key, out); }

std::vector<std::byte> Store::device_state(const std::string& id) const {
  Pinned info;
  {
    const std::shared_lock guard(impl_->mutex);
    info = impl_->pin(impl_->link(id)->info);
  }
  const InfoRecord record = impl_->load_info(info, id);
  return impl_->read_blob(record.device_state, record.info.device_state_bytes);
}

void Store::remove(const std::vector<std::string>& ids) {
  const WriteToken token(impl_->writing);
  impl_->remove(ids, {});
}

void Store::remove_all() {
  const WriteToken token(impl_->writing);
  impl_->remove_all();
}

std::uint64_t Store::bytes_on_disk() const {
  const std::shared_lock guard(impl_->mutex);
  return impl_->segments.bytes() + impl_->index.size() * sizeof(IndexEntry);
}

}  // namespace mhv::store
