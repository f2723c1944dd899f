#include "store/compact.h"

#include <algorithm>

#include "base/error.h"
#include "store/page_codec.h"
#include "store/store_impl.h"

namespace mhv::store {
namespace {

constexpr std::uint64_t kReadAhead = 4;  // steps' worth of a segment are read in one: it takes less time than to move them
constexpr std::uint64_t kLetGoMin = 4096;
constexpr std::size_t kEmptiedMax = 8;  // before CATALOG is written for them

}  // namespace

// A content that some link names, and its base.
void Store::Impl::mark_live(const PageKey& key) {
  if (cycle.phase == Cycle::Phase::kIdle || key.is_zero_page()) return;
  const auto add = [&](const PageKey& one, const Content& content) {
    if (index.mark(one)) cycle.live[content.at.segment] += record_bytes(content.at.stored);
  };
  const auto content = index.find(key);
  if (!content) return;
  add(key, *content);
  if (content->base.is_zero_page()) return;
  if (const auto base = index.find(content->base)) add(content->base, *base);
}

void Store::Impl::start_cycle(bool all) {
  if (all) segments.close_last();
  cycle.phase = Cycle::Phase::kMark;
  cycle.all = all;
  cycle.next_link = 0;
  cycle.entries.clear();
  cycle.next_entry = 0;
  cycle.before = all ? segments.end().segment + 1 : segments.end().segment;
  cycle.live.clear();
  cycle.let_go = 0;
  index.unmark_all();
}

// Returns the bytes read. What cannot be read names nothing that could be found again; but then nobody knows what it
// needs, so nothing is given back until it is repaired. A link may have gone since its entries were read: then a little more
// is marked than lives.
std::uint64_t Store::Impl::mark_some() {
  std::uint64_t keys = 0;
  while (keys * sizeof(PageEntry) < step_bytes) {
    if (cycle.next_entry < cycle.entries.size()) {
      mark_live(cycle.entries[cycle.next_entry++].key);
      ++keys;
      continue;
    }
    const auto at = tree.all().lower_bound(cycle.next_link);
    if (at == tree.all().end()) {
      choose_victims();
      break;
    }
    const Link link = *at->second;
    if (!link.hidden) {
      const InfoRecord about = load_info(pin(link.info), link.id);
      for (const auto* list : {&about.device_state, &about.domain_xml}) {
        for (const PageKey& key : *list) mark_live(key);
        keys += list->size();
      }
    }
    cycle.entries = visible_entries(link);
    const std::vector<PageEntry> more = load_entries(pin(link.table));
    cycle.entries.insert(cycle.entries.end(), more.begin(), more.end());
    cycle.next_entry = 0;
    cycle.next_link = link.sequence + 1;
    ++keys;
  }
  return keys * sizeof(PageEntry);
}

void Store::Impl::choose_victims() {
  const auto add = [&](const Ref& ref) { cycle.live[ref.segment] += record_bytes(ref.stored); };
  for (const auto& [sequence, link] : tree.all()) {
    add(link->info);
    for (const Ref& ref : link->entries) add(ref);
    for (const Ref& ref : link->table) add(ref);
  }
  cycle.victims.clear();
  for (const auto& [segment, state] : segments.all()) {
    const std::uint64_t content = state.bytes - std::min<std::uint64_t>(state.bytes, sizeof(SegmentHeader));
    const std::uint64_t live = cycle.live[segment];
    if (segment >= cycle.before) continue;
    const bool quick = cycle.quick.contains(segment);
    if (quick || (cycle.all ? live < content : live * 2 < content)) cycle.victims.push_back(segment);
  }
  cycle.quick.erase(cycle.quick.begin(), cycle.quick.lower_bound(cycle.before));  // also those that are gone
  std::reverse(cycle.victims.begin(), cycle.victims.end());
  cycle.entries = {};
  next_victim();
  cycle.phase = Cycle::Phase::kMove;
}

namespace {

// What was stored quickly is stored densely now.
void store_again(Appender& appender, const Record& record, std::span<const std::byte> payload) {
  std::array<std::byte, kPageSize> page;
  std::array<std::byte, kPageSize + sizeof(PageKey)> room;
  if (record.kind == Kind::kLz4 && decode_page(record.kind, payload, page)) {
    const EncodedPage dense = encode_page(page, Effort::kDense, room);
    if (dense.payload.size() < payload.size()) {
      appender.append_page(dense.kind, record.key, dense.payload);
      return;
    }
  }
  appender.append_page(record.kind, record.key, payload);
}

}  // namespace

void Store::Impl::next_victim() {
  cycle.bytes = {};
  cycle.next_record = sizeof(SegmentHeader);
}

std::uint64_t Store::Impl::empty_some(bool despite_damage) {
  const std::uint32_t segment = cycle.victims.back();
  const std::uint64_t all = segments.all().at(segment).bytes, there = cycle.bytes.size();
  if (there == all) return cycle.next_record < all ? move_pages(segment, despite_damage) : move_links(segment);
  const std::uint64_t more = std::min(all - there, kReadAhead * step_bytes);
  cycle.bytes.reserve(all);
  cycle.bytes.resize(there + more);
  segments.read(segment, there, std::span(cycle.bytes).subspan(there));
  return more;
}

// What nobody needs leaves the index in the same step: nobody may come to need it later, for it goes with the segment.
std::uint64_t Store::Impl::move_pages(std::uint32_t segment, bool despite_damage) {
  Appender appender(segments);
  std::vector<PageKey> dead;
  const std::shared_ptr<const Seal> seal = segments.all().at(segment).seal;
  std::array<std::byte, kPageStoredMax> room;
  bool altered = false;
  const std::uint64_t from = cycle.next_record, to = std::min<std::uint64_t>(from + step_bytes, cycle.bytes.size());
  std::uint64_t next = to;
  const std::uint64_t damaged = scan_records(cycle.bytes, from, to, [&](const Record& record, std::uint64_t offset) {
    next = std::max(to, offset + record.bytes());
    if (!is_page(record.kind)) return;
    const auto known = index.find(record.key);
    if (!known || known->at.segment != segment || known->at.offset != offset) return;  // another copy counts
    if (!index.marked(record.key)) {
      dead.push_back(record.key);
    } else if (const auto payload = open_record(record, seal.get(), offset, room)) {
      store_again(appender, record, *payload);
    } else {
      altered = true;
    }
  });
  if ((damaged != 0 || altered) && !despite_damage) {
    cycle.victims.pop_back();
    next_victim();
    return to - from;
  }
  if (appender.bytes() != 0) commit(appender, {});
  cycle.next_record = next;  // not before: a step that failed is done again
  const std::unique_lock guard(mutex);
  for (const PageKey& key : dead) index.erase(key);
  return next - from + appender.bytes();
}

// The segment is empty when nothing was left to be moved.
std::uint64_t Store::Impl::move_links(std::uint32_t segment) {
  const auto there = [&](const Ref& ref) { return ref.segment == segment; };
  Appender appender(segments);
  Transaction moved;
  for (const auto& [sequence, link] : tree.all()) {
    if (appender.bytes() >= step_bytes) break;
    if (!there(link->info) && std::ranges::none_of(link->entries, there) && std::ranges::none_of(link->table, there)) continue;
    Link copy = *link;
    if (there(copy.info)) {
      InfoRecord about;  // of a hidden one nobody asks more
      about.info.id = link->id;
      if (!link->hidden) about = load_info(pin(copy.info), link->id);
      const std::string text = serialize_info(about);
      copy.info = appender.append(Kind::kInfo, {}, std::as_bytes(std::span(text)));
    }
    for (std::vector<Ref>* refs : {&copy.entries, &copy.table}) {
      for (Ref& ref : *refs) {
        if (there(ref) && appender.bytes() < step_bytes) ref = appender.append(Kind::kEntries, {}, payload(pin(ref), Kind::kEntries));
      }
    }
    moved.put.push_back(std::move(copy));
  }
  if (moved.put.empty()) {
    cycle.emptied.push_back(segment);
    cycle.victims.pop_back();
    next_victim();
    return 0;
  }
  commit(appender, moved);
  return appender.bytes();
}

// Until CATALOG is durable, the next open() would look for frames in them.
void Store::Impl::retire_emptied() {
  if (cycle.emptied.empty()) return;
  save_catalog();
  {
    const std::unique_lock guard(mutex);
    segments.forget(cycle.emptied);
  }
  cycle.moved.insert(cycle.moved.end(), cycle.emptied.begin(), cycle.emptied.end());
  cycle.emptied.clear();
  drop_moved();
}

void Store::Impl::drop_moved() {
  if (cycle.moved.empty()) return;
  segments.delete_files(cycle.moved);
  cycle.moved.clear();
}

std::optional<std::uint64_t> Store::compact(bool force) {
  Impl& s = *impl_;
  const WriteToken token(s.writing);
  s.drop_moved();
  Cycle& cycle = s.cycle;
  try {
    switch (cycle.phase) {
      case Cycle::Phase::kIdle: {
        const bool quick = !cycle.quick.empty() && *cycle.quick.begin() < s.segments.end().segment;
        const bool worth_it = quick || cycle.let_go >= std::max<std::uint64_t>(kLetGoMin, s.index.size() / 4);
        if (!worth_it && (!force || cycle.number_at_end == s.number)) return std::nullopt;
        s.start_cycle(force);
        return 0;
      }
      case Cycle::Phase::kMark: return s.mark_some();
      case Cycle::Phase::kMove: break;
    }
    if (cycle.victims.empty() || cycle.emptied.size() >= kEmptiedMax) s.retire_emptied();
    if (!cycle.victims.empty()) return s.empty_some(false);
    cycle.phase = Cycle::Phase::kIdle;
    if (cycle.all) cycle.number_at_end = s.number;
    return 0;
  } catch (const Error&) {
    cycle.phase = Cycle::Phase::kIdle;  // a later one begins anew; what was moved counts
    s.next_victim();
    cycle.number_at_end = s.number;
    throw;
  }
}

}  // namespace mhv::store
