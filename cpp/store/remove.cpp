// Deleting checkpoints.
//
// A deletion has three parts: every child takes over the pages it needs (each child's manifest is replaced atomically,
// and means the same before and after), then the manifest is unlinked, then space is given back (gc.cpp). A crash in
// the first part leaves the checkpoint listed and whole; a crash in the last leaves garbage for the next collection.
#include <filesystem>

#include "base/error.h"
#include "store/store_impl.h"

namespace mhv::store {
namespace {

// What a child of `parent` has to say by itself when its parent goes. Pages of zeros keep their entries in a new root too: so
// the merged pages mean the same on top of `parent`, for a reader that is half-way along the chain and for a second attempt.
std::vector<PageEntry> merge(std::span<const PageEntry> parent, std::span<const PageEntry> child) {
  std::vector<PageEntry> out;
  out.reserve(parent.size() + child.size());
  auto p = parent.begin();
  auto c = child.begin();
  while (p != parent.end() || c != child.end()) {
    const bool take_child = p == parent.end() || (c != child.end() && c->page <= p->page);
    const PageEntry& entry = take_child ? *c : *p;
    if (p != parent.end() && p->page == entry.page) ++p;
    if (take_child) ++c;
    out.push_back(entry);
  }
  return out;
}

}  // namespace

// What an earlier failure left behind: to be called before anything is changed.
void Store::Impl::clean_up() {
  if (removal_owed) {
    files->make_directory(manifests_folder);
    files->sync_directory(folder);
    drop_leftovers();
    removal_owed = false;
  }
  if (strays.empty()) return;
  for (const std::string& path : strays) files->unlink(path);
  files->sync_directory(manifests_folder);
  strays.clear();
}

// Replaces `child` (of `from`) by the same checkpoint without `from`.
void Store::Impl::inherit(const Manifest& from, const std::string& child) {
  const Manifest own = load_manifest(child);
  auto node = std::make_shared<Node>();
  static_cast<ManifestHead&>(*node) = own;
  node->info.parent = from.info.parent;
  const std::vector<PageEntry> entries = merge(from.entries, own.entries);
  node->info.pages = entries.size();
  const std::vector<std::byte> bytes = serialize_manifest(*node, entries);
  node->file_bytes = bytes.size();
  replace(*files, manifest_path(child), bytes);
  const std::unique_lock guard(mutex);
  nodes[child] = node;
}

void Store::Impl::remove(const std::string& id) {
  clean_up();
  if (!nodes.contains(id)) {
    remove_damaged(id);
    return;
  }
  std::vector<std::string> children;
  for (const auto& [other, node] : nodes) {
    if (node->info.parent == id) children.push_back(other);
  }
  if (!children.empty()) {
    const Manifest manifest = load_manifest(id);
    for (const std::string& child : children) inherit(manifest, child);
  }
  // Out of the list first: a reader that misses the file then sees why.
  decltype(nodes)::node_type taken;
  {
    const std::unique_lock guard(mutex);
    taken = nodes.extract(id);
  }
  try {
    files->unlink(manifest_path(id));
  } catch (const Error&) {
    const std::unique_lock guard(mutex);
    nodes.insert(std::move(taken));
    throw;
  }
  {
    const std::unique_lock guard(mutex);
    if (table_id == id) {
      table_id.clear();
      table.clear();
    }
    find_broken();
  }
  files->sync_directory(manifests_folder);
  collect_garbage();
}

void Store::Impl::remove_damaged(const std::string& id) {
  if (!damaged.contains(id)) throw Error(Code::kNotFound, "no checkpoint " + id, "list the guest's checkpoints");
  for (const auto& [other, node] : nodes) {
    if (node->info.parent == id) throw Error(Code::kCorrupt, damaged.at(id), "checkpoint " + other + " needs it: delete that one first");
  }
  files->unlink(manifest_path(id));
  {
    const std::unique_lock guard(mutex);
    damaged.erase(id);
  }
  files->sync_directory(manifests_folder);
  collect_garbage();
}

// The rename is the moment at which all of them are gone.
void Store::Impl::remove_all() {
  clean_up();
  decltype(nodes) taken;
  {
    const std::unique_lock guard(mutex);
    taken.swap(nodes);
  }
  try {
    files->rename(manifests_folder, manifests_folder + ".removed");
  } catch (const Error&) {
    const std::unique_lock guard(mutex);
    nodes.swap(taken);
    throw;
  }
  removal_owed = true;
  std::vector<std::uint32_t> numbers;
  {
    const std::unique_lock guard(mutex);
    damaged.clear();
    broken.clear();
    table_id.clear();
    table.clear();
    index = KeyIndex();
    for (const auto& [number, segment] : segments.all()) numbers.push_back(number);
    segments.forget(numbers);
    problems.clear();
  }
  clean_up();
  segments.delete_files(numbers);
}

}  // namespace mhv::store
