// Reads everything that is stored, tells what is wrong with it, and drops what is.
#include <algorithm>

#include "base/error.h"
#include "store/page_codec.h"
#include "store/store_impl.h"

namespace mhv::store {
namespace {

constexpr std::size_t kProblemsMax = 100;
constexpr std::uint64_t kProgressPages = 4096;

// One run of it. Checkpoints may come and go beside it.
class Check {
 public:
  Check(const Store::Impl& store, const ProgressFn& progress) : store_(store), progress_(progress) {}
  CheckResult run();
  const std::set<std::string>& unreadable() const { return unreadable_; }
  const std::vector<std::uint32_t>& damaged_segments() const { return damaged_segments_; }

 private:
  void tell(const std::string& problem) {
    if (result_.problems.size() < kProblemsMax) result_.problems.push_back(problem);
  }
  bool still_there(const LinkPtr& link) const;
  void check_link(const LinkPtr& link);
  void check_told(const LinkPtr& link);
  void check_entries(const LinkPtr& link);
  void check_key(const PageKey& key, const LinkPtr& link, const std::string& what);
  void check_segment(std::uint32_t number, std::uint64_t bytes);
  void find_damaged(const LinkPtr& link);

  const Store::Impl& store_;
  const ProgressFn& progress_;
  CheckResult result_;
  KeyIndex seen_;
  std::set<PageKey> bad_;
  std::set<std::string> unreadable_;  // links whose entries cannot be read
  std::set<std::string> untold_;      // ... what is told about them
  std::vector<std::uint32_t> damaged_segments_;
  std::uint64_t done_ = 0, total_ = 0;
};

bool Check::still_there(const LinkPtr& link) const {
  const std::shared_lock guard(store_.mutex);
  return store_.tree.find(link->id) == link;
}

void Check::check_key(const PageKey& key, const LinkPtr& link, const std::string& what) {
  if (done_ < total_ && ++done_ % kProgressPages == 0 && progress_) progress_(done_, total_);
  if (key.is_zero_page() || seen_.find(key)) return;
  seen_.insert(key, {}, {});
  std::array<std::byte, kPageSize> page;
  try {
    store_.read(key, page);
    ++result_.records;
  } catch (const Error& error) {
    if (!still_there(link)) return;
    tell("checkpoint " + link->id + ", " + what + ": " + error.what());
    bad_.insert(key);
  }
}

void Check::check_told(const LinkPtr& link) {
  Pinned info;
  {
    const std::shared_lock guard(store_.mutex);
    info = store_.pin(link->info);
  }
  const InfoRecord about = store_.load_info(info, link->id);
  for (std::size_t i = 0; i < about.device_state.size(); ++i) {
    check_key(about.device_state[i], link, "device state at byte " + std::to_string(i * kPageSize));
  }
  for (const PageKey& key : about.domain_xml) check_key(key, link, "domain XML");
  for (const auto* keys : {&about.device_state, &about.domain_xml}) {
    if (std::ranges::any_of(*keys, [&](const PageKey& key) { return bad_.contains(key); })) untold_.insert(link->id);
  }
}

void Check::check_entries(const LinkPtr& link) {
  std::vector<Pinned> table;
  {
    const std::shared_lock guard(store_.mutex);
    table = store_.pin(link->table);
  }
  for (const PageEntry& entry : store_.visible_entries(*link)) check_key(entry.key, link, "page " + std::to_string(entry.page.value));
  for (const PageEntry& entry : store_.load_entries(table)) check_key(entry.key, link, "page " + std::to_string(entry.page.value));
}

// Of a deleted one only the entries are needed.
void Check::check_link(const LinkPtr& link) {
  const auto attempt = [&](void (Check::*part)(const LinkPtr&), std::set<std::string>& failed) {
    try {
      (this->*part)(link);
    } catch (const Error& error) {
      if (!still_there(link)) return;
      tell("checkpoint " + link->id + ": " + error.what());
      failed.insert(link->id);
    }
  };
  if (!link->hidden) attempt(&Check::check_told, untold_);
  attempt(&Check::check_entries, unreadable_);
}

// Also what no checkpoint needs at the moment: a later one may, and then it is not stored again.
void Check::check_segment(std::uint32_t number, std::uint64_t bytes) {
  const std::string path = store_.segments.segment_path(number);
  try {
    std::vector<std::byte> content(bytes);
    Pinned pinned;
    {
      const std::shared_lock guard(store_.mutex);
      if (!store_.segments.all().contains(number)) return;
      pinned = store_.pin(Ref{number, 0, 1});
    }
    pread_all(pinned.file->get(), content, 0, path.c_str());
    result_.bytes += bytes;
    parse_segment_header(content, store_.segments.version(), number);
    std::uint64_t altered = 0;
    std::vector<std::byte> room;
    const std::uint64_t damaged = scan_records(content, sizeof(SegmentHeader), bytes, [&](const Record& record, std::uint64_t offset) {
      room.resize(std::max(room.size(), record.payload.size()));
      if (!open_record(record, pinned.seal.get(), offset, room)) altered += record.bytes();
    });
    if (damaged + altered == 0) return;
    tell(path + ": " + std::to_string(damaged + altered) + " bytes are damaged");
  } catch (const Error& error) {
    tell(path + ": " + error.what());
  }
  damaged_segments_.push_back(number);
}

// Whether all that a checkpoint is made of was found good.
void Check::find_damaged(const LinkPtr& link) {
  bool good = !untold_.contains(link->id);
  try {
    if (good && !(bad_.empty() && unreadable_.empty())) {
      const PageTable table = store_.resolve(link->id);
      good = std::ranges::none_of(table, [&](const PageKey& key) { return bad_.contains(key); });
    }
  } catch (const Error&) {
    good = false;
  }
  if (!good && still_there(link)) result_.damaged.push_back(link->id);
}

CheckResult Check::run() {
  std::vector<LinkPtr> links;
  std::vector<std::pair<std::uint32_t, std::uint64_t>> parts;
  {
    const std::shared_lock guard(store_.mutex);
    for (const auto& [sequence, link] : store_.tree.all()) {
      links.push_back(link);
      total_ += link->entries_count;
    }
    for (const auto& [number, segment] : store_.segments.all()) parts.emplace_back(number, segment.bytes);
    for (const std::string& problem : store_.problems) tell(problem);
    for (const auto& [id, culprit] : store_.broken) {
      tell("checkpoint " + id + " needs checkpoint " + culprit + ", which is damaged or missing");
      untold_.insert(id);
    }
  }
  for (const LinkPtr& link : links) check_link(link);
  for (const LinkPtr& link : links) {
    if (link->hidden) continue;
    ++result_.checkpoints;
    find_damaged(link);
  }
  for (const auto& [number, bytes] : parts) check_segment(number, bytes);
  if (progress_) progress_(total_, total_);
  return std::move(result_);
}

}  // namespace

CheckResult Store::check(const ProgressFn& progress) const { return Check(*impl_, progress).run(); }

// What can be read of damaged segments gets new records: also a page of which only the checksum is damaged, and a delta that
// writes over the very bytes that are damaged in its base.
void Store::Impl::rescue(const std::vector<std::uint32_t>& damaged_segments) {
  const auto in_damage = [&](const Content& content) { return std::ranges::count(damaged_segments, content.at.segment) != 0; };
  std::vector<PageKey> concerned;
  index.for_each([&](const PageKey& key, const Content& content) {
    if (!index.marked(key)) return;
    const auto base = content.base.is_zero_page() ? std::nullopt : index.find(content.base);
    if (in_damage(content) || (base && in_damage(*base))) concerned.push_back(key);
  });
  Appender appender(segments);
  std::array<std::byte, kPageSize> page;
  std::array<std::byte, kPageSize + sizeof(PageKey)> room;
  for (const PageKey& key : concerned) {
    try {
      read(key, page);
    } catch (const Error& error) {
      if (error.code() != Code::kCorrupt) throw;
      continue;
    }
    const EncodedPage whole = encode_page(page, Effort::kDense, room);
    appender.append_page(whole.kind, key, whole.payload);
  }
  if (appender.bytes() != 0) commit(appender, {});
}

// What is damaged goes first, so that nothing needs it; then every segment with damage is emptied of what can be read, and deleted:
// else a later page with a content that was lost would be taken for stored.
RepairResult Store::repair(const ProgressFn& progress) {
  Impl& s = *impl_;
  const WriteToken token(s.writing);
  s.retire_emptied();
  s.drop_moved();
  Check check(s, progress);
  CheckResult found = check.run();
  RepairResult out{found.damaged, 0, std::move(found.problems)};
  s.remove(found.damaged, check.unreadable());
  s.cycle = Cycle{};  // quick segments stay as they are
  s.start_cycle(true);
  while (s.cycle.phase == Cycle::Phase::kMark) s.mark_some();
  s.rescue(check.damaged_segments());
  for (const std::uint32_t segment : check.damaged_segments()) {
    if (!s.segments.all().contains(segment)) continue;
    s.cycle.victims = {segment};
    s.next_victim();
    while (!s.cycle.victims.empty()) s.empty_some(true);
    std::vector<PageKey> lost;
    s.index.for_each([&](const PageKey& key, const Content& content) {
      if (content.at.segment == segment) lost.push_back(key);
    });
    const std::unique_lock guard(s.mutex);
    for (const PageKey& key : lost) s.index.erase(key);
  }
  s.cycle.phase = Cycle::Phase::kIdle;
  s.retire_emptied();
  s.save_catalog();
  const std::unique_lock guard(s.mutex);
  s.problems.clear();
  s.find_broken();
  out.kept = s.tree.listed();
  return out;
}

StoreStat Store::stat() const {
  const Impl& s = *impl_;
  StoreStat out;
  std::vector<std::pair<std::uint32_t, std::uint64_t>> parts;
  {
    const std::shared_lock guard(s.mutex);
    for (const auto& [sequence, link] : s.tree.all()) {
      if (link->hidden) {
        ++out.links;
      } else {
        ++out.checkpoints;
        out.pages += link->entries_count;
      }
    }
    for (const auto& [number, segment] : s.segments.all()) parts.emplace_back(number, segment.bytes);
    out.contents = s.index.size();
  }
  out.segments = parts.size();
  out.bytes = bytes_on_disk();
  struct Row {
    std::uint64_t& count;
    std::uint64_t& bytes;
  };
  const std::array<Row, 5> rows{Row{out.raw, out.raw_bytes}, Row{out.lz4, out.lz4_bytes}, Row{out.filled, out.filled_bytes},
                                Row{out.delta, out.delta_bytes}, Row{out.zstd, out.zstd_bytes}};
  for (const auto& [number, bytes] : parts) {
    std::vector<std::byte> content;
    try {
      content = s.segments.read_segment(number, bytes);
    } catch (const Error&) {  // emptied since, or damaged: check() tells
      continue;
    }
    const std::shared_lock guard(s.mutex);
    scan_records(content, sizeof(SegmentHeader), bytes, [&, wanted = number](const Record& record, std::uint64_t offset) {
      if (!is_page(record.kind)) return;
      const auto known = s.index.find(record.key);
      if (!known || known->at.segment != wanted || known->at.offset != offset) return;
      const Row& row = rows.at(static_cast<std::size_t>(record.kind));
      ++row.count;
      row.bytes += record.bytes();
    });
  }
  return out;
}

}  // namespace mhv::store
