// Reading checkpoints and pages.
#include <algorithm>

#include "base/error.h"
#include "store/page_codec.h"
#include "store/store_impl.h"

namespace mhv::store {
namespace {

constexpr std::size_t kRunBytesMax = 1u << 20;  // read in one go
constexpr std::size_t kRunGapMax = 16384;       // bytes between two records that are read rather than jumped over

[[noreturn]] void damaged(const std::string& what) { throw Error(Code::kCorrupt, what, kDamageHint); }

}  // namespace

void set_entries(PageTable& table, std::span<const PageEntry> entries) {
  for (const PageEntry& entry : entries) {
    if (entry.page.value < table.size()) table[entry.page.value] = entry.key;
  }
}

LinkPtr Store::Impl::link(const std::string& id) const {
  if (const auto bad = broken.find(id); bad != broken.end()) {
    damaged("checkpoint " + id + " needs checkpoint " + bad->second + ", which is damaged or missing");
  }
  LinkPtr found = tree.find(id);
  if (!found || found->hidden) throw Error(Code::kNotFound, "no checkpoint " + id, "list the guest's checkpoints");
  return found;
}

Pinned Store::Impl::pin(const Ref& ref) const {
  try {
    const auto known = segments.all().find(ref.segment);
    if (known == segments.all().end()) damaged(segments.segment_path(ref.segment) + " is missing");
    return {ref, segments.file(ref.segment), known->second.seal};
  } catch (const Error& error) {
    if (error.code() != Code::kNotFound) throw;
    damaged(error.what());
  }
}

std::vector<Pinned> Store::Impl::pin(std::span<const Ref> refs) const {
  std::vector<Pinned> out;
  out.reserve(refs.size());
  for (const Ref& ref : refs) out.push_back(pin(ref));
  return out;
}

void Store::Impl::read_at(const Fd& file, std::span<std::byte> out, std::uint32_t segment, std::uint64_t offset) const {
  try {
    pread_all(file.get(), out, offset, "the segment");
  } catch (const Error& error) {
    throw Error(error.code(), segments.segment_path(segment) + ": " + error.what(),
                error.code() == Code::kCorrupt ? kDamageHint : error.hint());
  }
}

std::vector<std::byte> Store::Impl::payload(const Pinned& pinned, Kind kind) const {
  std::vector<std::byte> bytes(record_bytes(pinned.ref.stored));
  read_at(*pinned.file, bytes, pinned.ref.segment, pinned.ref.offset);
  const auto record = parse_record(bytes);
  const bool fits = record && record->kind == kind && record->payload.size() == pinned.ref.stored;
  const auto plain =
      fits ? open_record(*record, pinned.seal.get(), pinned.ref.offset, std::span(bytes).subspan(sizeof(RecordHeader))) : std::nullopt;
  if (!plain) {
    damaged(segments.segment_path(pinned.ref.segment) + ": the record at byte " + std::to_string(pinned.ref.offset) + " is damaged");
  }
  const std::size_t size = plain->size();
  bytes.erase(bytes.begin(), bytes.begin() + sizeof(RecordHeader));
  bytes.resize(size);
  return bytes;
}

InfoRecord Store::Impl::load_info(const Pinned& record, const std::string& id) const {
  InfoRecord out = parse_info(payload(record, Kind::kInfo));
  if (out.info.id != id) damaged("what is told about checkpoint " + id + " belongs to checkpoint " + out.info.id);
  return out;
}

CheckpointInfo Store::Impl::describe(const LinkPtr& link, const std::string& parent, const Pinned& record) const {
  CheckpointInfo info;
  try {
    info = std::move(load_info(record, link->id).info);
  } catch (const Error& error) {
    if (error.code() != Code::kCorrupt) throw;
    info.id = link->id;  // what else is known of it stands in its link
  }
  info.parent = parent;
  info.created_ns = link->created_ns;
  info.automatic = link->automatic;
  return info;
}

CheckpointInfo Store::Impl::get(const std::string& id, InfoRecord& about) const {
  LinkPtr found;
  std::string parent;
  Pinned record;
  {
    const std::shared_lock guard(mutex);
    found = link(id);
    parent = tree.visible_parent(*found);
    record = pin(found->info);
  }
  about = load_info(record, id);  // damage is told here
  return describe(found, parent, record);
}

std::vector<PageEntry> Store::Impl::load_entries(std::span<const Pinned> records) const {
  std::vector<PageEntry> out;
  for (const Pinned& record : records) {
    const auto part = parse_entries(payload(record, Kind::kEntries));
    if (!out.empty() && !part.empty() && part.front().page <= out.back().page) damaged("page entries are not in order");
    out.insert(out.end(), part.begin(), part.end());
  }
  return out;
}

std::vector<PageEntry> Store::Impl::load_entries(const Link& link) const { return load_entries(pin(link.entries)); }

// From the nearest table (or root) down; `walk` of the links bounds what is between (writer.cpp).
PageTable Store::Impl::resolve(const std::string& id) const {
  std::vector<std::vector<Pinned>> parts;
  std::uint64_t pages = 0;
  {
    const std::shared_lock guard(mutex);
    LinkPtr at = link(id);
    if (id == table_id) return table;
    pages = at->pages_total;
    for (;; at = tree.find(at->parent)) {
      if (!at) damaged("checkpoint " + id + " needs one that is missing");
      parts.push_back(pin(at->table.empty() ? at->entries : at->table));
      if (!at->table.empty() || at->parent.empty()) break;
    }
  }
  PageTable out(pages);
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) set_entries(out, load_entries(*part));
  return out;
}

std::vector<PageEntry> Store::Impl::visible_entries(const Link& link) const {
  std::vector<Pinned> own;
  std::vector<std::vector<Pinned>> below;
  {
    const std::shared_lock guard(mutex);
    own = pin(link.entries);
    for (LinkPtr at = tree.find(link.id); at && at->hidden && tree.children(at->id).size() == 1;) {
      at = tree.find(tree.children(at->id).front());
      if (!at->table.empty()) return {};  // nobody looks further up
      below.push_back(pin(at->entries));
    }
  }
  std::vector<PageEntry> out = load_entries(own);
  for (const auto& part : below) {
    const std::vector<PageEntry> over = load_entries(part);
    auto at = over.begin();
    std::erase_if(out, [&](const PageEntry& entry) {
      at = std::lower_bound(at, over.end(), entry.page, [](const PageEntry& e, PageNo page) { return e.page < page; });
      return at != over.end() && at->page == entry.page;
    });
  }
  return out;
}

void Store::Impl::read(const PageKey& key, std::span<std::byte, kPageSize> out) const {
  if (key.is_zero_page()) {
    std::fill(out.begin(), out.end(), std::byte{0});
    return;
  }
  Content content, base;
  Pinned record, base_record;
  {
    const std::shared_lock guard(mutex);
    const auto found = index.find(key);
    if (!found) damaged("a page is in no segment of " + folder);
    content = *found;
    record = pin({content.at.segment, content.at.offset, content.at.stored});
    if (!content.base.is_zero_page()) {
      const auto found_base = index.find(content.base);
      if (!found_base || !found_base->base.is_zero_page()) damaged("the base of a page is in no segment of " + folder);
      base = *found_base;
      base_record = pin({base.at.segment, base.at.offset, base.at.stored});
    }
  }
  std::array<std::byte, kPageRecordBytesMax> buffer;
  const auto load = [&](const Pinned& at, const PageKey& wanted) -> std::optional<Record> {
    const auto bytes = std::span(buffer).first(record_bytes(at.ref.stored));
    read_at(*at.file, bytes, at.ref.segment, at.ref.offset);
    auto parsed = parse_record_unchecked(bytes);
    if (!parsed || parsed->key != wanted) return std::nullopt;
    const auto payload = open_record(*parsed, at.seal.get(), at.ref.offset, bytes.subspan(sizeof(RecordHeader)));
    if (!payload) return std::nullopt;
    parsed->payload = *payload;
    return parsed;
  };
  bool good = false;
  if (!content.base.is_zero_page()) {
    const auto first = load(base_record, content.base);
    good = first && decode_page(first->kind, first->payload, out);
    const auto parsed = load(record, key);
    good = good && parsed && parsed->kind == Kind::kDelta && base_of(parsed->kind, parsed->payload) == content.base &&
           apply_delta(parsed->payload, out);
  } else {
    const auto parsed = load(record, key);
    good = parsed && decode_page(parsed->kind, parsed->payload, out);
  }
  if (good && (*name)(out) == key) return;
  damaged(segments.segment_path(record.ref.segment) + ": the page at byte " + std::to_string(record.ref.offset) + " is damaged");
}

std::vector<std::byte> Store::Impl::read_blob(std::span<const PageKey> keys, std::uint64_t bytes) const {
  std::vector<std::byte> out(keys.size() * kPageSize);
  for (std::size_t i = 0; i < keys.size(); ++i) read(keys[i], std::span(out).subspan(i * kPageSize).first<kPageSize>());
  out.resize(bytes);
  return out;
}

namespace {

// One record of a read_many(), and who wants it.
struct Wanted {
  Location at;
  std::size_t page;    // in the caller's list
  bool delta = false;  // to be laid over the base, which is there by then
};

}  // namespace

// Whole records first (the bases of deltas go straight to where the deltas will be), then the deltas; each in the order of the
// files, neighbours in one read.
void Store::read_many(std::span<const PageRead> pages) const {
  std::vector<Wanted> whole, deltas;
  std::map<std::uint32_t, Pinned> opened;
  {
    const std::shared_lock guard(impl_->mutex);
    const auto want = [&](std::vector<Wanted>& list, const PageKey& key, std::size_t page, bool delta) {
      const auto found = impl_->index.find(key);
      if (!found) damaged("a page is in no segment of " + impl_->folder);
      list.push_back({found->at, page, delta});
      if (Pinned& pinned = opened[found->at.segment]; !pinned.file) pinned = impl_->pin({found->at.segment, 0, 1});
      return found->base;
    };
    for (std::size_t i = 0; i < pages.size(); ++i) {
      if (pages[i].key.is_zero_page()) {
        std::fill_n(pages[i].out, kPageSize, std::byte{0});
        continue;
      }
      const auto found = impl_->index.find(pages[i].key);
      const bool delta = found && !found->base.is_zero_page();
      want(delta ? deltas : whole, pages[i].key, i, delta);
      if (delta) want(whole, found->base, i, false);
    }
  }
  std::vector<std::byte> room(kRunBytesMax + kRunGapMax + kPageRecordBytesMax);
  std::array<std::byte, kPageStoredMax> opened_page;  // not in place: several may want one record
  std::vector<bool> checked(pages.size());
  for (std::vector<Wanted>* list : {&whole, &deltas}) {
    const auto place = [](const Wanted& w) { return std::pair(w.at.segment, w.at.offset); };
    std::sort(list->begin(), list->end(), [&](const Wanted& a, const Wanted& b) { return place(a) < place(b); });
    for (std::size_t i = 0; i < list->size();) {
      const Location& first = (*list)[i].at;
      std::size_t j = i, end = first.offset;
      for (; j < list->size(); ++j) {
        const Location& at = (*list)[j].at;
        if (at.segment != first.segment || at.offset > end + kRunGapMax || at.offset - first.offset > kRunBytesMax) break;
        end = std::max<std::size_t>(end, at.offset + record_bytes(at.stored));
      }
      const std::span buffer = std::span(room).first(end - first.offset);
      const Pinned& segment = opened.at(first.segment);
      impl_->read_at(*segment.file, buffer, first.segment, first.offset);
      for (; i < j; ++i) {
        const Wanted& w = (*list)[i];
        const std::span<std::byte, kPageSize> out(pages[w.page].out, kPageSize);
        const auto record = parse_record_unchecked(buffer.subspan(w.at.offset - first.offset, record_bytes(w.at.stored)));
        const auto payload =
            record && is_page(record->kind) ? open_record(*record, segment.seal.get(), w.at.offset, opened_page) : std::nullopt;
        const bool good =
            payload && (w.delta ? record->kind == Kind::kDelta && apply_delta(*payload, out) : decode_page(record->kind, *payload, out));
        const bool last = w.delta || (record && record->key == pages[w.page].key);
        if (!good || (last && (*impl_->name)(out) != pages[w.page].key)) {
          damaged(impl_->segments.segment_path(first.segment) + ": the page at byte " + std::to_string(w.at.offset) + " is damaged");
        }
        if (last) checked[w.page] = true;
      }
    }
  }
  for (std::size_t i = 0; i < pages.size(); ++i) {
    if (!checked[i] && !pages[i].key.is_zero_page()) damaged("a page's record has another name");
  }
}

}  // namespace mhv::store
