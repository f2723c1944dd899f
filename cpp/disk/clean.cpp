// How the log gives its space back: versions are folded into the base image or copied to the log's end, the index is written, and
// only then are segments used again.
#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "base/error.h"
#include "disk/journal.h"

namespace mhv::disk {
namespace {

constexpr std::size_t kFoldRunBlocks = 256;   // written to the base image at once
constexpr std::uint64_t kReplaySegments = 4;  // the index is written again when a restart had more than this to read
constexpr const char* kIndex = "INDEX";
constexpr const char* kUnfinished = "new";

}  // namespace

// Throws kNoSpace when there is none to be made.
void Journal::make_room() {
  const std::lock_guard clean(clean_);
  check_alive();
  {
    const std::lock_guard lock(state_);
    if (log_->ready() >= 2) return;  // another one made it
  }
  if (add_segment() || reclaim()) return;
  throw Error(Code::kNoSpace, "the journal is full", "drop marks, give it more space, or free space on its file system");
}

// False: the limit is reached, or the file system is full.
bool Journal::add_segment() {
  std::uint64_t number;
  {
    const std::lock_guard lock(state_);
    if (log_->segments().size() >= options_.segments_max) return false;
    number = log_->next_number();
  }
  try {
    std::unique_ptr<File> file = folder_->create(kUnfinished, std::uint64_t{segment_blocks_} * kBlockBytes);
    file->sync();
    folder_->rename(kUnfinished, segment_name(number));
    folder_->sync();  // before anything in it is acknowledged
    const std::lock_guard lock(state_);
    log_->add(number, folder_->open(segment_name(number)));
  } catch (const Error& error) {
    if (error.code() != Code::kNoSpace) throw;
    return false;
  }
  return true;
}

// With state_ held: whether the segment gives back more than a quarter of what its copy would take.
bool Journal::worth_emptying(std::uint64_t segment) const {
  std::uint64_t stays = 0;
  for (const auto& [where, slot] : history_->slots().list(segment)) stays += !history_->base_free(slot.block);
  return stays * 4 <= std::uint64_t{segment_blocks_} * 3;
}

// False: there is nothing to be won.
bool Journal::reclaim() {
  std::uint64_t victim = 0;
  std::uint64_t before;
  {
    const std::lock_guard lock(state_);
    before = log_->ready();
    std::uint32_t fewest = segment_blocks_;
    for (const auto& [number, segment] : log_->segments()) {
      if (number >= log_->current()) break;
      const std::uint32_t live = history_->slots().live(number);
      if (live >= fewest || (live > 0 && !worth_emptying(number))) continue;
      victim = number;
      fewest = live;
    }
    if (victim == 0) return false;
  }
  empty(victim);
  write_index();
  const std::lock_guard lock(state_);
  return log_->ready() > before || !log_->segments().contains(victim);
}

// Afterwards nobody holds a slot of the segment, unless room for copies is missing.
void Journal::empty(std::uint64_t segment) {
  std::vector<std::pair<Where, Slots::Slot>> versions;
  {
    const std::lock_guard lock(state_);
    versions = history_->slots().list(segment);
  }
  if (versions.empty()) return;
  for (const auto& [from, block] : fold(versions)) move(from, block);
}

// Writes those that the base image can take into it, and returns the others.
std::vector<std::pair<Where, BlockNo>> Journal::fold(const std::vector<std::pair<Where, Slots::Slot>>& versions) {
  std::vector<std::pair<BlockNo, Where>> takes;
  std::vector<std::pair<Where, BlockNo>> others;
  Log::Pin pin;
  {
    const std::lock_guard lock(state_);
    std::unordered_set<BlockNo> taken;
    pin = log_->pin(versions.front().first);
    for (const auto& [from, slot] : versions) {
      if (history_->base_free(slot.block) && taken.insert(slot.block).second) {
        takes.emplace_back(slot.block, from);
      } else {
        others.emplace_back(from, slot.block);
      }
    }
  }
  sync();  // base_free() is durable now
  wait_for_readers();
  std::ranges::sort(takes);
  std::vector<std::byte> run(kFoldRunBlocks * kBlockBytes);
  for (std::size_t i = 0; i < takes.size();) {
    std::size_t n = 0;
    const BlockNo first = takes[i].first;
    for (; n < kFoldRunBlocks && i + n < takes.size() && takes[i + n].first == first + n; ++n) {
      pin->file->read(std::span(run).subspan(n * kBlockBytes, kBlockBytes), takes[i + n].second.value % segment_blocks_ * kBlockBytes);
    }
    const std::uint64_t bytes = std::min<std::uint64_t>(n * kBlockBytes, bytes_ - first * kBlockBytes);
    base_->write(std::span(run).first(static_cast<std::size_t>(bytes)), first * kBlockBytes);
    const std::lock_guard lock(state_);
    for (const std::size_t end = i + n; i < end; ++i) folded_ += history_->relocate(takes[i].first, takes[i].second, kInBase);
  }
  return others;
}

// Returns when no read is under way that found its block in the base image before this call. New ones do not hold it up.
void Journal::wait_for_readers() {
  std::unique_lock lock(state_);
  const unsigned side = reader_side_;
  reader_side_ = 1 - side;
  readers_gone_.wait(lock, [&] { return readers_[side] == 0; });
}

void Journal::move(Where from, BlockNo block) {
  std::array<std::byte, kBlockBytes> content;
  const std::lock_guard lock(state_);
  const Slots::Slot slot = history_->slots().at(from);
  if (slot.holder == Slots::kNobody || slot.block != block) return;
  log_->pin(from)->file->read(content, from.value % segment_blocks_ * kBlockBytes);
  Entry entry{Kind::kMove, 1, block, from.value, 0};
  Where to;
  if (log_->append({&entry, 1}, content, Use::kOwn, to) == 0) return;
  history_->relocate(block, from, to);
  ++moved_;
}

void Journal::fold_zeros() {
  std::vector<BlockNo> zeros;
  {
    const std::lock_guard lock(state_);
    history_->map().for_each([&](BlockNo block, Where where) {
      if (where == kZeros && history_->base_free(block)) zeros.push_back(block);
    });
  }
  if (zeros.empty()) return;
  sync();
  wait_for_readers();
  for (std::size_t i = 0; i < zeros.size();) {
    std::size_t n = 1;
    while (i + n < zeros.size() && zeros[i + n] == zeros[i] + n) ++n;
    base_->zero(std::min(n * kBlockBytes, bytes_ - zeros[i] * kBlockBytes), zeros[i] * kBlockBytes);
    const std::lock_guard lock(state_);
    for (const std::size_t end = i + n; i < end; ++i) {
      if (history_->find(zeros[i]) == kZeros) history_->zeros_in_base(zeros[i]);
    }
  }
}

// The base image is synced first: the index will say that versions stand in it.
void Journal::write_index() {
  IndexHeader header;
  std::vector<std::uint64_t> words;
  std::vector<std::uint64_t> dead;
  std::uint64_t entries;
  {
    const std::lock_guard lock(state_);
    const Log::End end = log_->close_chunk();
    header.position = end.position;
    header.previous_entries = end.previous_entries;
    words = history_->save();
    entries = log_->entries();
    const std::uint64_t first = end.position / segment_blocks_;
    for (const auto& [number, segment] : log_->segments()) {
      if (number < std::min(first, log_->current()) && history_->slots().live(number) == 0) dead.push_back(number);
    }
  }
  sync();
  base_->sync();
  header.segment_blocks = segment_blocks_;
  header.journal = id_;
  header.incarnation = incarnation_;
  header.disk_bytes = bytes_;
  seal(header, words);
  std::vector<std::byte> file(sizeof header + words.size() * 8);
  std::memcpy(file.data(), &header, sizeof header);
  if (!words.empty()) std::memcpy(file.data() + sizeof header, words.data(), words.size() * 8);
  try {
    store_index(file);
  } catch (const Error& error) {
    if (error.code() != Code::kNoSpace) throw;
    // The last ready segment holds nothing, and what the index sets free takes its place.
    {
      const std::lock_guard lock(state_);
      if (log_->ready() == 0) throw;
      const std::uint64_t last = log_->segments().rbegin()->first;
      log_->remove(last);
      folder_->unlink(segment_name(last));
    }
    store_index(file);
  }
  for (const std::uint64_t number : dead) reuse(number);
  const std::lock_guard lock(state_);
  indexed_ = entries;
}

void Journal::store_index(std::span<const std::byte> file) {
  const std::unique_ptr<File> beside = folder_->create(kUnfinished, file.size());
  beside->write(file, 0);
  beside->sync();
  folder_->rename(kUnfinished, kIndex);
  folder_->sync();
}

// A segment that the durable index does not need becomes a ready one, or goes. Only the owner of clean_ changes the set of segments.
void Journal::reuse(std::uint64_t number) {
  std::uint64_t next;
  {
    const std::lock_guard lock(state_);
    if (log_->segments().at(number).use_count() > 1) return;  // somebody reads it: another time
    log_->remove(number);
    next = log_->ready() < kReadyWanted ? log_->next_number() : 0;
  }
  if (next == 0) {
    folder_->unlink(segment_name(number));
    return;
  }
  folder_->rename(segment_name(number), segment_name(next));
  folder_->sync();
  std::unique_ptr<File> file = folder_->open(segment_name(next));
  const std::lock_guard lock(state_);
  log_->add(next, std::move(file));
}

bool Journal::maintain() {
  const std::lock_guard clean(clean_);
  if (failed_) return false;
  std::uint64_t ready, used, unindexed;
  {
    const std::lock_guard lock(state_);
    ready = log_->ready();
    used = log_->segments().size() - ready;
    unindexed = log_->entries() - indexed_;
  }
  if (used > options_.segments_kept && reclaim()) return true;
  if (ready < kReadyWanted) return add_segment();
  if (unindexed > kReplaySegments * segment_blocks_) write_index();
  return false;
}

// The index goes first: without it, segments are nothing.
bool Journal::finish() {
  if (!fold_all()) return false;
  const std::lock_guard clean(clean_);
  folder_->unlink(kIndex);
  folder_->sync();
  for (const std::string& name : folder_->list()) {
    if (parse_segment_name(name)) folder_->unlink(name);
  }
  return true;
}

bool Journal::fold_all() {
  const std::lock_guard clean(clean_);
  std::vector<std::uint64_t> segments;
  {
    const std::lock_guard lock(state_);
    if (!history_->marks().empty()) throw Error(Code::kBusy, "the disk has marks", "drop them first");
    for (const auto& [number, segment] : log_->segments()) segments.push_back(number);
  }
  for (const std::uint64_t number : segments) {
    std::vector<std::pair<Where, Slots::Slot>> versions;
    {
      const std::lock_guard lock(state_);
      versions = history_->slots().list(number);
    }
    if (!versions.empty()) fold(versions);
  }
  fold_zeros();
  write_index();
  const std::lock_guard lock(state_);
  bool all = history_->slots().live() == 0 && log_->entries() == indexed_;
  history_->map().for_each([&](BlockNo, Where) { all = false; });
  return all;
}

}  // namespace mhv::disk
