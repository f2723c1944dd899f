#include "store/store.h"

#include <algorithm>

#include "base/error.h"
#include "store/page_codec.h"
#include "store/store_impl.h"

namespace mhv::store {
namespace {

constexpr const char* kDamageHint =
    "run mhvctl checkpoint verify: it names everything that is damaged; other checkpoints are not touched by it";

}  // namespace

WriteToken::WriteToken(std::atomic_flag& flag) : flag_(flag) {
  if (flag.test_and_set()) throw Error(Code::kBusy, "a checkpoint of this guest is being written or deleted", "try again when it is done");
}

void set_entries(PageTable& table, std::span<const PageEntry> entries) {
  for (const PageEntry& entry : entries) {
    if (entry.page.value < table.size()) table[entry.page.value] = entry.key;
  }
}

// ---- Impl

Manifest Store::Impl::load_manifest(const std::string& id) const {
  const std::string path = manifest_path(id);
  try {
    const std::string text =
        read_file(path, sizeof(ManifestHeader) + kInfoBytesMax + kEntriesMax * sizeof(PageEntry) + kManifestTrailerBytes);
    Manifest manifest = parse_manifest(std::as_bytes(std::span(text)));
    if (manifest.info.id != id) throw Error(Code::kCorrupt, "manifest belongs to checkpoint " + manifest.info.id);
    return manifest;
  } catch (const Error& error) {
    if (error.code() != Code::kCorrupt) throw;
    throw Error(Code::kCorrupt, path + ": " + error.what(), kDamageHint);
  }
}

NodePtr Store::Impl::node(const std::string& id) const {
  if (const auto bad = damaged.find(id); bad != damaged.end()) throw Error(Code::kCorrupt, bad->second, kDamageHint);
  if (const auto bad = broken.find(id); bad != broken.end()) {
    throw Error(Code::kCorrupt, "checkpoint " + id + " needs checkpoint " + bad->second + ", which is damaged or missing", kDamageHint);
  }
  const auto found = nodes.find(id);
  if (found == nodes.end()) throw Error(Code::kNotFound, "no checkpoint " + id, "list the guest's checkpoints");
  return found->second;
}

std::vector<NodePtr> Store::Impl::chain(const std::string& id) const {
  const std::shared_lock guard(mutex);
  std::vector<NodePtr> out{node(id)};
  while (!out.back()->info.parent.empty()) out.push_back(node(out.back()->info.parent));
  return out;
}

PageTable Store::Impl::resolve(const std::string& id) const {
  {
    const std::shared_lock guard(mutex);
    if (!id.empty() && id == table_id) return table;
  }
  for (std::vector<NodePtr> nodes_of = chain(id);;) {
    try {
      PageTable out(pages_of(nodes_of.front()->info.blocks));
      for (auto it = nodes_of.rbegin(); it != nodes_of.rend(); ++it) set_entries(out, load_manifest((*it)->info.id).entries);
      return out;
    } catch (const Error& error) {
      // A checkpoint of the chain may have been deleted since: its children then hold its pages.
      if (error.code() != Code::kNotFound) throw;
      auto again = chain(id);
      if (again == nodes_of) throw Error(Code::kCorrupt, error.what(), kDamageHint);
      nodes_of = std::move(again);
    }
  }
}

void Store::Impl::read(const PageKey& key, std::span<std::byte, kPageSize> out) const {
  if (key.is_zero_page()) {
    std::fill(out.begin(), out.end(), std::byte{0});
    return;
  }
  Location location;
  std::shared_ptr<const Fd> file;
  {
    const std::shared_lock guard(mutex);
    const auto found = index.find(key);
    if (!found) throw Error(Code::kCorrupt, "a page is in no segment of " + folder, kDamageHint);
    location = *found;
    file = segments.file(location.segment);  // stays readable when the garbage collection moves the record now
  }
  std::array<std::byte, kRecordBytesMax> buffer;
  const auto bytes = std::span(buffer).first(record_bytes(location.stored));
  const std::string path = numbered(folder + "/segments", location.segment, ".seg");
  pread_all(file->get(), bytes, location.offset, path.c_str());
  const auto record = parse_record(bytes);
  if (!record || record->key != key || !decode_page(record->encoding, record->payload, out) || key_of(out) != key) {
    throw Error(Code::kCorrupt, path + ": the page at byte " + std::to_string(location.offset) + " is damaged", kDamageHint);
  }
}

// ---- Store

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::~Store() = default;

std::unique_ptr<Store> Store::open(const std::string& folder, const StoreOptions& options) {
  auto impl = std::make_unique<Impl>(folder, options);
  impl->open();
  return std::unique_ptr<Store>(new Store(std::move(impl)));
}

std::vector<CheckpointInfo> Store::list() const {
  std::vector<NodePtr> found;
  {
    const std::shared_lock guard(impl_->mutex);
    for (const auto& [id, node] : impl_->nodes) {
      if (!impl_->broken.contains(id)) found.push_back(node);
    }
  }
  std::sort(found.begin(), found.end(), [](const NodePtr& a, const NodePtr& b) { return a->sequence < b->sequence; });
  std::vector<CheckpointInfo> out;
  out.reserve(found.size());
  for (const NodePtr& node : found) out.push_back(node->info);
  return out;
}

CheckpointInfo Store::get(const std::string& id) const {
  const std::shared_lock guard(impl_->mutex);
  return impl_->node(id)->info;
}

PageTable Store::resolve(const std::string& id) const { return impl_->resolve(id); }

std::vector<PageEntry> Store::difference(const std::string& from, const std::string& to) const {
  const PageTable a = impl_->resolve(from), b = impl_->resolve(to);
  std::vector<PageEntry> out;
  for (std::size_t i = 0; i < b.size(); ++i) {
    if (i >= a.size() || a[i] != b[i]) out.push_back({PageNo{static_cast<std::uint32_t>(i)}, b[i]});
  }
  return out;
}

void Store::read(const PageKey& key, std::span<std::byte, kPageSize> out) const { impl_->read(key, out); }

std::vector<std::byte> Store::device_state(const std::string& id) const {
  NodePtr node;
  {
    const std::shared_lock guard(impl_->mutex);
    node = impl_->node(id);
  }
  std::vector<std::byte> out(node->device_state.size() * kPageSize);
  for (std::size_t i = 0; i < node->device_state.size(); ++i) {
    impl_->read(node->device_state[i], std::span(out).subspan(i * kPageSize).first<kPageSize>());
  }
  out.resize(node->info.device_state_bytes);
  return out;
}

void Store::remove(const std::string& id) {
  const WriteToken token(impl_->writing);
  impl_->remove(id);
}

void Store::remove_all() {
  const WriteToken token(impl_->writing);
  impl_->remove_all();
}

std::uint64_t Store::bytes_on_disk() const {
  const std::shared_lock guard(impl_->mutex);
  std::uint64_t sum = impl_->segments.bytes() + impl_->index.size() * sizeof(IndexEntry);
  for (const auto& [id, node] : impl_->nodes) sum += node->file_bytes;
  return sum;
}

}  // namespace mhv::store
