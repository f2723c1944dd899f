// One checkpoint on its way to the disk: pages into the segments, then the manifest.
#include <algorithm>

#include "base/error.h"
#include "store/page_codec.h"
#include "store/store_impl.h"

namespace mhv::store {

struct Writer::Impl {
  Impl(Store::Impl& of, std::string on_top_of) : store(of), parent(std::move(on_top_of)) {
    token.emplace(of.writing);
    appender.emplace(of.segments, false);
  }

  PageKey store_page(std::span<const std::byte, kPageSize> content, const PageKey& known, bool& added);
  std::vector<PageEntry> changed_pages(std::uint64_t pages);
  ManifestHead head_of(CheckpointInfo info);
  void publish(const std::shared_ptr<const Node>& node, std::span<const PageEntry> changed);

  Store::Impl& store;
  std::optional<WriteToken> token;  // until commit() ends
  const std::string parent;
  std::optional<Appender> appender;
  std::vector<PageEntry> entries;  // as they were put
  std::vector<PageKey> device_state;
  std::uint64_t device_state_bytes = 0;
  std::uint64_t pages_stored = 0;
  bool spent = false;  // committed, or failed
};

Writer::Writer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Writer::Writer(Writer&&) noexcept = default;
Writer::~Writer() = default;

Writer Store::begin(const std::string& parent) {
  auto writer = std::make_unique<Writer::Impl>(*impl_, parent);
  impl_->clean_up();
  if (parent.empty()) {
    const std::unique_lock guard(impl_->mutex);
    impl_->table_id.clear();
    impl_->table.clear();
  } else {
    PageTable table = impl_->table_id == parent ? PageTable{} : impl_->resolve(parent);
    const std::unique_lock guard(impl_->mutex);
    impl_->node(parent);  // throws when there is none
    if (impl_->table_id != parent) {
      impl_->table = std::move(table);
      impl_->table_id = parent;
    }
  }
  return Writer(std::move(writer));
}

// `known`: a key whose record is there already.
PageKey Writer::Impl::store_page(std::span<const std::byte, kPageSize> content, const PageKey& known, bool& added) {
  const PageKey key = key_of(content);
  if (key == known || key.is_zero_page() || store.index.find(key) || appender->has(key)) return key;
  std::array<std::byte, kPageSize> room;
  const EncodedPage encoded = encode_page(content, room);
  try {
    appender->append(key, encoded.encoding, encoded.payload);
  } catch (...) {
    spent = true;
    throw;
  }
  added = true;
  return key;
}

PageKey Writer::put(PageNo page, std::span<const std::byte, kPageSize> content) {
  Impl& w = *impl_;
  if (w.spent) throw Error(Code::kInvalid, "this checkpoint was committed or has failed", "begin another");
  if (page.value >= kEntriesMax) throw Error(Code::kInvalid, "page number " + std::to_string(page.value) + " is beyond 1 TiB");
  const PageTable& table = w.store.table;
  bool added = false;
  const PageKey key = w.store_page(content, page.value < table.size() ? table[page.value] : PageKey{}, added);
  if (added) ++w.pages_stored;
  w.entries.push_back({page, key});
  return key;
}

void Writer::put_device_state(std::span<const std::byte> state) {
  Impl& w = *impl_;
  if (w.spent) throw Error(Code::kInvalid, "this checkpoint was committed or has failed", "begin another");
  if (state.size() > kDeviceStateBytesMax) {
    throw Error(Code::kInvalid, "device state is longer than " + std::to_string(kDeviceStateBytesMax) + " bytes");
  }
  w.device_state.clear();
  w.device_state_bytes = state.size();
  bool added = false;
  while (!state.empty()) {
    std::array<std::byte, kPageSize> page{};
    const auto part = state.first(std::min(state.size(), kPageSize));
    std::copy(part.begin(), part.end(), page.begin());
    w.device_state.push_back(w.store_page(page, PageKey{}, added));
    state = state.subspan(part.size());
  }
}

// In order, the last put() of each page, without those that are as in the parent.
std::vector<PageEntry> Writer::Impl::changed_pages(std::uint64_t pages) {
  const auto less = [](const PageEntry& a, const PageEntry& b) { return a.page < b.page; };
  if (!std::is_sorted(entries.begin(), entries.end(), less)) std::stable_sort(entries.begin(), entries.end(), less);
  if (!entries.empty() && entries.back().page.value >= pages) {
    throw Error(Code::kInvalid, "page " + std::to_string(entries.back().page.value) + " was put, but the RAM blocks have " +
                                    std::to_string(pages) + " pages");
  }
  std::vector<PageEntry> out;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (i + 1 < entries.size() && entries[i + 1].page == entries[i].page) continue;
    const std::size_t page = entries[i].page.value;
    const PageKey before = page < store.table.size() ? store.table[page] : PageKey{};
    if (entries[i].key != before) out.push_back(entries[i]);
  }
  return out;
}

ManifestHead Writer::Impl::head_of(CheckpointInfo info) {
  if (!is_uuid(info.id)) throw Error(Code::kInvalid, "a checkpoint's id has to be a UUID in lower case, not '" + info.id + "'");
  if (pages_of(info.blocks) > kEntriesMax) throw Error(Code::kInvalid, "the RAM blocks are larger than 1 TiB");
  if (store.nodes.contains(info.id) || store.damaged.contains(info.id))
    throw Error(Code::kExists, "there is a checkpoint " + info.id + " already");
  if (!parent.empty()) {
    const auto same = [](const BlockInfo& a, const BlockInfo& b) { return a.name == b.name && a.bytes == b.bytes; };
    const auto& before = store.nodes.at(parent)->info.blocks;
    if (!std::equal(before.begin(), before.end(), info.blocks.begin(), info.blocks.end(), same)) {
      throw Error(Code::kInvalid, "the RAM blocks are others than in the parent checkpoint", "begin a root instead");
    }
  }
  info.parent = parent;
  info.pages_stored = pages_stored;
  info.bytes_stored = appender->bytes();
  info.device_state_bytes = device_state_bytes;
  return {std::move(info), device_state, store.next_sequence, {}};
}

void Writer::Impl::publish(const std::shared_ptr<const Node>& node, std::span<const PageEntry> changed) {
  const std::unique_lock guard(store.mutex);
  appender->publish(store.index);
  if (!node) return;
  store.table.resize(pages_of(node->info.blocks));
  set_entries(store.table, changed);
  store.table_id = node->info.id;
  store.nodes.emplace(node->info.id, node);
  ++store.next_sequence;
}

CheckpointInfo Writer::commit(CheckpointInfo info) {
  Impl& w = *impl_;
  if (w.spent) throw Error(Code::kInvalid, "this checkpoint was committed or has failed", "begin another");
  w.spent = true;
  // Whatever happens, the next one may begin when this returns.
  struct Finish {
    Impl& writer;
    ~Finish() {
      writer.appender.reset();
      writer.token.reset();
    }
  } const finish{w};
  FileOps& files = *w.store.files;
  auto node = std::make_shared<Node>();
  static_cast<ManifestHead&>(*node) = w.head_of(std::move(info));
  const std::vector<PageEntry> changed = w.changed_pages(pages_of(node->info.blocks));
  node->info.pages = changed.size();
  node->end = w.appender->sync();
  const std::vector<std::byte> manifest = serialize_manifest(*node, changed);
  node->file_bytes = manifest.size();
  const std::string path = w.store.manifest_path(node->info.id);
  const std::string beside = write_beside(files, path, manifest);
  try {
    files.rename(beside, path);
    files.sync_directory(w.store.manifests_folder);
  } catch (const Error&) {
    // Whether the manifest is there after a power loss is unknown now. So its records stay, as unused ones.
    w.publish(nullptr, {});
    w.store.strays.insert(path);
    w.store.strays.insert(beside);
    try {
      w.store.clean_up();
    } catch (const Error&) {  // done again before the next change; the first error is the one to tell
    }
    throw;
  }
  w.publish(node, changed);
  w.store.segments.save_indexes(false);
  return node->info;
}

}  // namespace mhv::store
