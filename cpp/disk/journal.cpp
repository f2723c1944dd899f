#include "disk/journal.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "base/error.h"

namespace mhv::disk {
namespace {

// Where so few writes go before each flush (a database's log), their transfer begins before the flush comes.
constexpr std::uint32_t kFlushSoon = 4;
constexpr std::uint64_t kZeroRunBlocks = 65536;  // of one lock hold

Entry data_entry(BlockNo block) { return {Kind::kData, 1, block, 0, 0}; }

}  // namespace

void Journal::check_range(std::uint64_t bytes, std::uint64_t offset) const {
  if (offset > bytes_ || bytes > bytes_ - offset) throw Error(Code::kInvalid, "a request reaches beyond the end of the disk");
}

void Journal::check_alive() const {
  if (failed_) throw Error(Code::kInternal, "the journal's log could not be synced; nothing is acknowledged any more");
}

void Journal::read_base(std::span<std::byte> out, std::uint64_t offset) {
  const auto there = static_cast<std::size_t>(std::min<std::uint64_t>(out.size(), bytes_ > offset ? bytes_ - offset : 0));
  if (there > 0) base_->read(out.first(there), offset);
  std::memset(out.data() + there, 0, out.size() - there);
}

// A run of bytes that stands in one place.
struct Journal::Piece {
  std::span<std::byte> out;
  Where where;           // of its first block
  std::uint64_t offset;  // in the disk
  Log::Pin pin;
};

// With state_ held.
std::vector<Journal::Piece> Journal::locate(std::span<std::byte> out, std::uint64_t offset) const {
  std::vector<Piece> pieces;
  std::uint64_t blocks_of_last = 0;
  while (!out.empty()) {
    const auto bytes = static_cast<std::size_t>(std::min<std::uint64_t>(out.size(), kBlockBytes - offset % kBlockBytes));
    const Where where = history_->find(offset / kBlockBytes);
    const Where next = pieces.empty() || !pieces.back().pin ? Where{} : Where{pieces.back().where.value + blocks_of_last};
    const bool goes_on = !pieces.empty() && (where.in_log() ? where == next && where.value / segment_blocks_ == pieces.back().pin->number
                                                            : where == pieces.back().where);
    if (goes_on) {
      pieces.back().out = {pieces.back().out.data(), pieces.back().out.size() + bytes};
      ++blocks_of_last;
    } else {
      pieces.push_back({out.first(bytes), where, offset, where.in_log() ? log_->pin(where) : nullptr});
      blocks_of_last = 1;
    }
    out = out.subspan(bytes);
    offset += bytes;
  }
  return pieces;
}

void Journal::read_pieces(std::span<const Piece> pieces) {
  for (const Piece& piece : pieces) {
    if (piece.where == kInBase) {
      read_base(piece.out, piece.offset);
    } else if (piece.where == kZeros) {
      std::memset(piece.out.data(), 0, piece.out.size());
    } else {
      piece.pin->file->read(piece.out, piece.where.value % segment_blocks_ * kBlockBytes + piece.offset % kBlockBytes);
    }
  }
}

void Journal::read(std::span<std::byte> out, std::uint64_t offset) {
  check_range(out.size(), offset);
  std::vector<Piece> pieces;
  bool from_base;
  unsigned side;
  {
    const std::lock_guard lock(state_);
    pieces = locate(out, offset);
    from_base = std::ranges::any_of(pieces, [](const Piece& piece) { return piece.where == kInBase; });
    side = reader_side_;
    readers_[side] += from_base;
  }
  const auto leave = [&] {
    if (!from_base) return;
    const std::lock_guard lock(state_);
    if (--readers_[side] == 0) readers_gone_.notify_all();
  };
  try {
    read_pieces(pieces);
  } catch (...) {
    leave();
    throw;
  }
  leave();
}

// With state_ held: what stands in the base image now is not being overwritten.
void Journal::read_block(BlockNo block, std::span<std::byte, kBlockBytes> out) {
  const Where where = history_->find(block);
  if (where == kInBase) {
    read_base(out, block * kBlockBytes);
  } else if (where == kZeros) {
    std::memset(out.data(), 0, out.size());
  } else {
    log_->pin(where)->file->read(out, where.value % segment_blocks_ * kBlockBytes);
  }
}

// Appends the first of these whole blocks and returns how many bytes; 0: no room. With state_ held.
std::size_t Journal::append_data(std::span<const std::byte> data, BlockNo first) {
  std::array<Entry, kChunkEntries> entries;
  const std::size_t count = std::min<std::size_t>(data.size() / kBlockBytes, entries.size());
  for (std::size_t i = 0; i < count; ++i) entries[i] = data_entry(first + i);
  Where slot;
  const std::uint32_t done = log_->append(std::span(entries).first(count), data.first(count * kBlockBytes), Use::kGuest, slot);
  for (std::uint32_t i = 0; i < done; ++i) history_->write(first + i, {slot.value + i});
  return done * kBlockBytes;
}

// As much as goes without making room; false when room is needed for more.
bool Journal::write_some(std::span<const std::byte>& data, std::uint64_t& offset) {
  const std::lock_guard lock(state_);
  check_alive();
  while (!data.empty()) {
    const BlockNo block = offset / kBlockBytes;
    const std::size_t inside = offset % kBlockBytes;
    std::size_t done;
    if (inside == 0 && data.size() >= kBlockBytes) {
      done = append_data(data, block);
    } else {
      std::array<std::byte, kBlockBytes> whole;
      read_block(block, whole);
      done = std::min(data.size(), kBlockBytes - inside);
      std::memcpy(whole.data() + inside, data.data(), done);
      if (append_data(whole, block) == 0) done = 0;
    }
    if (done == 0) return false;
    data = data.subspan(done);
    offset += done;
  }
  if (++since_flush_ >= flush_every_ && flush_every_ <= kFlushSoon) log_->begin_sync();
  return true;
}

void Journal::write(std::span<const std::byte> data, std::uint64_t offset) {
  check_range(data.size(), offset);
  while (!write_some(data, offset)) make_room();
}

bool Journal::append_one(Entry entry, Use use) {
  Where slot;
  return log_->append({&entry, 1}, {}, use, slot) == 1;
}

void Journal::zero(std::uint64_t bytes, std::uint64_t offset) {
  check_range(bytes, offset);
  static constexpr std::array<std::byte, kBlockBytes> kZeroBlock{};
  const auto ragged = [&](std::uint64_t part) {
    write(std::span(kZeroBlock).first(static_cast<std::size_t>(part)), offset);
    bytes -= part, offset += part;
  };
  if (offset % kBlockBytes != 0) ragged(std::min(bytes, kBlockBytes - offset % kBlockBytes));
  while (bytes >= kBlockBytes) {
    const std::uint64_t count = std::min(bytes / kBlockBytes, kZeroRunBlocks);
    const BlockNo first = offset / kBlockBytes;
    bool done;
    {
      const std::lock_guard lock(state_);
      check_alive();
      done = append_one({Kind::kZero, static_cast<std::uint32_t>(count), first, 0, 0}, Use::kGuest);
      for (std::uint64_t i = 0; done && i < count; ++i) history_->write(first + i, kZeros);
    }
    if (!done) {
      make_room();
      continue;
    }
    bytes -= count * kBlockBytes, offset += count * kBlockBytes;
  }
  if (bytes > 0) ragged(bytes);
}

void Journal::discard(std::uint64_t bytes, std::uint64_t offset) {
  check_range(bytes, offset);
  BlockNo block = (offset + kBlockBytes - 1) / kBlockBytes;
  const BlockNo end = (offset + bytes) / kBlockBytes;
  while (block < end) {
    const std::lock_guard lock(state_);
    check_alive();
    const BlockNo stop = std::min(end, block + kZeroRunBlocks);
    while (block < stop) {
      std::uint32_t run = 0;
      while (block + run < stop && history_->find(block + run).in_log()) ++run;
      if (run > 0 && !append_one({Kind::kZero, run, block, 0, 0}, Use::kGuest)) return;  // a hint that is not worth the last space
      for (std::uint32_t i = 0; i < run; ++i) history_->write(block + i, kZeros);
      block += std::max(run, 1u);
    }
  }
}

void Journal::flush() {
  if (options_.flush != Flush::kSync) return;
  {
    const std::lock_guard lock(state_);
    if (since_flush_ > 0) flush_every_ = since_flush_;
    since_flush_ = 0;
  }
  sync();
}

void Journal::sync() {
  std::uint64_t wanted;
  {
    const std::lock_guard lock(state_);
    wanted = log_->entries() + 1;
  }
  const std::lock_guard one_at_a_time(flush_);
  check_alive();
  std::vector<Log::Pin> segments;
  std::uint64_t reached;
  {
    const std::lock_guard lock(state_);
    if (synced_ >= wanted) return;  // by the one that this one waited for
    reached = log_->entries() + 1;
    segments = log_->take_unsynced();
  }
  try {
    for (const Log::Pin& segment : segments) segment->file->sync();
  } catch (...) {
    failed_ = true;
    throw;
  }
  const std::lock_guard lock(state_);
  synced_ = reached;
}

// `wanted`: whether the mark has to be there already.
void Journal::append_control(Entry entry, void (History::*action)(const MarkName&), const MarkName& name, bool wanted) {
  entry.a = name.high, entry.b = name.low;
  for (;;) {
    {
      const std::lock_guard lock(state_);
      check_alive();
      // Before it is in the log: what stands there is always possible.
      if (history_->has(name) != wanted)
        throw wanted ? Error(Code::kNotFound, "the disk has no such mark") : Error(Code::kExists, "the disk has this mark already");
      if (append_one(entry, Use::kOwn)) {
        (history_.get()->*action)(name);
        return;
      }
    }
    make_room();
  }
}

void Journal::mark(const MarkName& name) { append_control({Kind::kMark, 0, 0, 0, 0}, &History::mark, name, false); }
void Journal::rollback(const MarkName& name) { append_control({Kind::kRollback, 0, 0, 0, 0}, &History::rollback, name, true); }
void Journal::drop(const MarkName& name) { append_control({Kind::kDrop, 0, 0, 0, 0}, &History::drop, name, true); }

std::vector<MarkName> Journal::marks() const {
  const std::lock_guard lock(state_);
  return history_->marks();
}

JournalStat Journal::stat() const {
  const std::lock_guard lock(state_);
  JournalStat out;
  out.disk_bytes = bytes_;
  out.log_bytes = log_->segments().size() * std::uint64_t{segment_blocks_} * kBlockBytes;
  out.live_bytes = history_->slots().live() * kBlockBytes;
  out.marks = history_->mark_count();
  out.entries = log_->entries();
  out.synced_entries = synced_ == 0 ? 0 : synced_ - 1;
  out.folded_blocks = folded_;
  out.moved_blocks = moved_;
  return out;
}

}  // namespace mhv::disk
