#include "store/compact.h"

#include <algorithm>

#include "base/error.h"
#include "store/page_codec.h"
#include "store/store_impl.h"

namespace mhv::store {
namespace {

constexpr std::uint64_t kEntriesOfStep = 100'000;  // marked in one go
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
  cycle.before = all ? segments.end().segment + 1 : segments.end().segment;
  cycle.live.clear();
  cycle.let_go = 0;
  index.unmark_all();
}

// Returns the bytes read. What cannot be read names nothing that could be found again; but then nobody knows what it
// needs, so nothing is given back until it is repaired.
std::uint64_t Store::Impl::mark_some() {
  std::uint64_t entries = 0;
  for (auto at = tree.all().lower_bound(cycle.next_link); at != tree.all().end() && entries < kEntriesOfStep;
       at = tree.all().lower_bound(cycle.next_link)) {
    const Link link = *at->second;
    if (!link.hidden) {
      const InfoRecord about = load_info(pin(link.info), link.id);
      for (const PageKey& key : about.device_state) mark_live(key);
      for (const PageKey& key : about.domain_xml) mark_live(key);
    }
    for (const auto& list : {visible_entries(link), load_entries(pin(link.table))}) {
      for (const PageEntry& entry : list) mark_live(entry.key);
      entries += list.size();
    }
    ++entries;
    cycle.next_link = link.sequence + 1;
  }
  if (tree.all().lower_bound(cycle.next_link) == tree.all().end()) choose_victims();
  return entries * sizeof(PageEntry);
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

std::uint64_t Store::Impl::empty_segment(std::uint32_t segment, bool despite_damage) {
  const std::vector<std::byte> bytes = segments.read_segment(segment, segments.all().at(segment).bytes);
  Appender appender(segments);
  std::vector<PageKey> dead;
  const auto there = [&](const Ref& ref) { return ref.segment == segment; };
  const std::shared_ptr<const Seal> seal = segments.all().at(segment).seal;
  std::array<std::byte, kPageStoredMax> room;
  bool altered = false;
  const std::uint64_t damaged = scan_records(bytes, sizeof(SegmentHeader), bytes.size(), [&](const Record& record, std::uint64_t offset) {
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
  if ((damaged != 0 || altered) && !despite_damage) return bytes.size();
  Transaction moved;
  for (const auto& [sequence, link] : tree.all()) {
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
        if (there(ref)) ref = appender.append(Kind::kEntries, {}, payload(pin(ref), Kind::kEntries));
      }
    }
    moved.put.push_back(std::move(copy));
  }
  const std::uint64_t work = bytes.size() + appender.bytes();
  commit(appender, moved);
  {
    const std::unique_lock guard(mutex);
    for (const PageKey& key : dead) index.erase(key);
  }
  cycle.emptied.push_back(segment);
  return work;
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
    std::uint64_t work = 0;
    if (!cycle.victims.empty()) {
      const std::uint32_t segment = cycle.victims.back();
      cycle.victims.pop_back();
      if (s.segments.all().contains(segment)) work = s.empty_segment(segment, false);
    }
    if (cycle.victims.empty() || cycle.emptied.size() >= kEmptiedMax) s.retire_emptied();
    if (cycle.victims.empty()) {
      cycle.phase = Cycle::Phase::kIdle;
      if (cycle.all) cycle.number_at_end = s.number;
    }
    return work;
  } catch (const Error&) {
    cycle.phase = Cycle::Phase::kIdle;  // a later one begins anew; what was moved counts
    cycle.number_at_end = s.number;
    throw;
  }
}

}  // namespace mhv::store
