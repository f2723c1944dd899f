// One checkpoint on its way to the disk: pages, entries, what is told about it, and the frame that commits them.
#include <algorithm>

#include "base/error.h"
#include "store/page_codec.h"
#include "store/store_impl.h"

namespace mhv::store {
namespace {

// What a patch may cost with its record: this much always, for a whole record of code or text is hardly shorter ...
constexpr std::size_t kDeltaGood = 768;
// ... and this much, when the page itself does not get shorter.
constexpr std::size_t kDeltaMax = 3072;
// What a whole record costs, as a guess: when patches were longer than they need be by so much, the page gets a new base.
constexpr std::size_t kNewBaseCost = 2048;
// A chain without a table may be so long in any case.
constexpr std::uint64_t kWalkMin = 4096;
constexpr std::uint32_t kDeviceStatePage = kEntriesMax;  // in the cache of bases, behind all pages of RAM

}  // namespace

struct Writer::Impl {
  Impl(Store::Impl& of, std::string on_top_of, Effort how)
      : store(of), parent(std::move(on_top_of)), effort(parent.empty() ? Effort::kQuick : how) {
    token.emplace(of.writing);
    appender.emplace(of.segments);
  }

  PageKey store_page(std::span<const std::byte, kPageSize> content, std::uint32_t page, const PageKey& before);
  std::vector<PageKey> store_blob(std::span<const std::byte> blob, std::uint32_t first_page);
  bool usable(const PageKey& key) const;
  BaseCache::Entry* base_of_page(std::uint32_t page, const PageKey& before);
  void store_content(std::span<const std::byte, kPageSize> content, std::uint32_t page, const PageKey& before, const PageKey& key);
  std::vector<PageEntry> changed_pages(std::uint64_t pages);
  void check(const CheckpointInfo& info) const;
  Link write_link(CheckpointInfo& info, std::span<const PageEntry> changed);
  void publish(const Link& link, std::span<const PageEntry> changed);

  Store::Impl& store;
  std::optional<WriteToken> token;  // until commit() ends
  const std::string parent;
  const Effort effort;
  std::optional<Appender> appender;
  std::vector<PageEntry> entries;  // as they were put
  InfoRecord about;
  std::uint64_t pages_stored = 0;
  bool spent = false;  // committed, or failed
};

Writer::Writer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Writer::Writer(Writer&&) noexcept = default;
Writer::~Writer() = default;

Writer Store::begin(const std::string& parent, Effort effort) {
  auto writer = std::make_unique<Writer::Impl>(*impl_, parent, effort);
  impl_->drop_moved();
  if (parent.empty()) {
    const std::unique_lock guard(impl_->mutex);
    impl_->table_id.clear();
    impl_->table.clear();
  } else if (impl_->link(parent); impl_->table_id != parent) {
    PageTable table = impl_->resolve(parent);
    const std::unique_lock guard(impl_->mutex);
    impl_->table = std::move(table);
    impl_->table_id = parent;
  }
  return Writer(std::move(writer));
}

// A delta whose base is gone (compact.h) is as good as not there.
bool Writer::Impl::usable(const PageKey& key) const {
  const auto there = [&](const PageKey& one) { return store.index.find(one) || appender->find(one); };
  auto found = store.index.find(key);
  if (!found) found = appender->find(key);
  return found && (found->base.is_zero_page() || there(found->base));
}

// What the page may be stored as a patch of: the base it had lately, else that of its content in the parent.
BaseCache::Entry* Writer::Impl::base_of_page(std::uint32_t page, const PageKey& before) {
  BaseCache::Entry* const known = store.bases.find(page);
  if (known != nullptr && usable(known->key)) return known;
  if (before.is_zero_page()) return nullptr;
  const auto found = store.index.find(before);
  if (!found) return nullptr;
  const PageKey key = found->base.is_zero_page() ? before : found->base;
  BaseCache::Entry& entry = store.bases.put(page, key, nullptr);
  try {
    store.read(key, entry.content);
    return &entry;
  } catch (const Error& error) {
    store.bases.put(page, PageKey{}, nullptr);
    if (error.code() != Code::kCorrupt) throw;
    return nullptr;
  }
}

// The cost model: a short patch is taken at once; a longer one only when the page by itself is longer still.
void Writer::Impl::store_content(std::span<const std::byte, kPageSize> content, std::uint32_t page, const PageKey& before,
                                 const PageKey& key) {
  std::array<std::byte, kPageSize + sizeof(PageKey)> patch_room, room;
  std::span<const std::byte> patch;
  BaseCache::Entry* const base = base_of_page(page, before);
  if (base != nullptr && base->excess < kNewBaseCost) patch = encode_delta(content, base->content, base->key, kDeltaMax, patch_room);
  EncodedPage whole{};
  if (patch.empty() || patch.size() > kDeltaGood) whole = encode_page(content, effort, room);
  if (!patch.empty() && (whole.payload.empty() || patch.size() < whole.payload.size())) {
    base->excess += patch.size() - std::min(patch.size(), base->smallest);
    base->smallest = std::min(base->smallest, patch.size());
    appender->append_page(Kind::kDelta, key, patch);
    return;
  }
  appender->append_page(whole.kind, key, whole.payload);
  // Pages of a root are not known to be written again; those of device state are, every time.
  if (!parent.empty() || page >= kDeviceStatePage) store.bases.put(page, key, content.data());
}

PageKey Writer::Impl::store_page(std::span<const std::byte, kPageSize> content, std::uint32_t page, const PageKey& before) {
  const PageKey key = (*store.name)(content);
  if (key == before || key.is_zero_page() || usable(key)) return key;
  try {
    store_content(content, page, before, key);
  } catch (...) {
    spent = true;
    throw;
  }
  ++pages_stored;
  return key;
}

PageKey Writer::put(PageNo page, std::span<const std::byte, kPageSize> content) {
  Impl& w = *impl_;
  if (w.spent) throw Error(Code::kInvalid, "this checkpoint was committed or has failed", "begin another");
  if (page.value >= kEntriesMax) throw Error(Code::kInvalid, "page number " + std::to_string(page.value) + " is beyond 1 TiB");
  const PageTable& table = w.store.table;
  const PageKey key = w.store_page(content, page.value, page.value < table.size() ? table[page.value] : PageKey{});
  w.entries.push_back({page, key});
  return key;
}

std::vector<PageKey> Writer::Impl::store_blob(std::span<const std::byte> blob, std::uint32_t first_page) {
  std::vector<PageKey> keys;
  const std::uint64_t stored_before = pages_stored;
  while (!blob.empty()) {
    std::array<std::byte, kPageSize> page{};
    const auto part = blob.first(std::min(blob.size(), kPageSize));
    std::copy(part.begin(), part.end(), page.begin());
    keys.push_back(store_page(page, first_page + static_cast<std::uint32_t>(keys.size()), PageKey{}));
    blob = blob.subspan(part.size());
  }
  pages_stored = stored_before;  // it counts pages of RAM
  return keys;
}

void Writer::put_device_state(std::span<const std::byte> state) {
  Impl& w = *impl_;
  if (w.spent) throw Error(Code::kInvalid, "this checkpoint was committed or has failed", "begin another");
  if (state.size() > kDeviceStateBytesMax) {
    throw Error(Code::kInvalid, "device state is longer than " + std::to_string(kDeviceStateBytesMax) + " bytes");
  }
  w.about.device_state = w.store_blob(state, kDeviceStatePage);
  w.about.info.device_state_bytes = state.size();
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

void Writer::Impl::check(const CheckpointInfo& info) const {
  if (!is_uuid(info.id)) throw Error(Code::kInvalid, "a checkpoint's id has to be a UUID in lower case, not '" + info.id + "'");
  if (pages_of(info.blocks) > kEntriesMax) throw Error(Code::kInvalid, "the RAM blocks are larger than 1 TiB");
  if (info.domain_xml.size() > kDomainXmlBytesMax) {
    throw Error(Code::kInvalid, "the domain XML is longer than " + std::to_string(kDomainXmlBytesMax) + " bytes");
  }
  if (store.tree.find(info.id)) throw Error(Code::kExists, "there is a checkpoint " + info.id + " already");
  if (parent.empty()) return;
  const auto same = [](const BlockInfo& a, const BlockInfo& b) { return a.name == b.name && a.bytes == b.bytes; };
  const auto before = store.load_info(store.pin(store.tree.find(parent)->info), parent).info.blocks;
  if (!std::equal(before.begin(), before.end(), info.blocks.begin(), info.blocks.end(), same)) {
    throw Error(Code::kInvalid, "the RAM blocks are others than in the parent checkpoint", "begin a root instead");
  }
}

std::vector<Ref> append_entries(Appender& appender, std::span<const PageEntry> entries) {
  std::vector<Ref> out;
  while (!entries.empty()) {
    const auto part = entries.first(std::min(entries.size(), kEntriesOfRecord));
    out.push_back(appender.append(Kind::kEntries, {}, entries_payload(part)));
    entries = entries.subspan(part.size());
  }
  return out;
}

// A table is written when as many entries as the guest has pages have gathered since the last one: so the tables cost at most
// what the entries do, and resolve() reads at most twice what RAM has pages, however long the chain is.
Link Writer::Impl::write_link(CheckpointInfo& info, std::span<const PageEntry> changed) {
  Link link;
  link.id = info.id;
  link.parent = info.parent = parent;
  link.sequence = store.next_sequence;
  link.created_ns = info.created_ns;
  link.automatic = info.automatic;
  link.entries_count = info.pages = changed.size();
  link.pages_total = pages_of(info.blocks);
  link.entries = append_entries(*appender, changed);
  link.walk = parent.empty() ? 0 : store.tree.find(parent)->walk + changed.size();
  if (link.walk >= std::max(link.pages_total, kWalkMin)) {
    PageTable table = store.table;
    set_entries(table, changed);
    std::vector<PageEntry> all;
    for (std::size_t i = 0; i < table.size(); ++i) {
      if (!table[i].is_zero_page()) all.push_back({PageNo{static_cast<std::uint32_t>(i)}, table[i]});
    }
    link.table = append_entries(*appender, all);
    if (!link.table.empty()) link.walk = 0;
  }
  about.domain_xml = store_blob(std::as_bytes(std::span(info.domain_xml)),
                                kDeviceStatePage + static_cast<std::uint32_t>(kDeviceStateBytesMax / kPageSize));
  about.domain_xml_bytes = info.domain_xml.size();
  info.pages_stored = pages_stored;
  info.device_state_bytes = about.info.device_state_bytes;
  info.bytes_stored = appender->bytes();
  about.info = info;
  const std::string text = serialize_info(about);
  link.info = appender->append(Kind::kInfo, {}, std::as_bytes(std::span(text)));
  return link;
}

void Writer::Impl::publish(const Link& link, std::span<const PageEntry> changed) {
  const std::unique_lock guard(store.mutex);
  store.table.resize(link.pages_total);
  set_entries(store.table, changed);
  store.table_id = link.id;
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
  w.check(info);
  const std::vector<PageEntry> changed = w.changed_pages(pages_of(info.blocks));
  const Link link = w.write_link(info, changed);
  const std::uint32_t first = w.store.segments.end().segment;
  w.store.commit(*w.appender, {{link}, {}});
  if (w.parent.empty()) {
    for (std::uint32_t segment = first; segment <= w.store.segments.end().segment; ++segment) w.store.cycle.quick.insert(segment);
  }
  ++w.store.next_sequence;
  w.publish(link, changed);
  for (const PageEntry& entry : changed) w.store.mark_live(entry.key);
  for (const PageKey& key : w.about.device_state) w.store.mark_live(key);
  for (const PageKey& key : w.about.domain_xml) w.store.mark_live(key);
  return info;
}

}  // namespace mhv::store
