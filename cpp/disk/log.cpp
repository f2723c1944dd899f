#include "disk/log.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace mhv::disk {

void Log::add(std::uint64_t number, std::unique_ptr<File> file) {
  auto segment = std::make_shared<Segment>();
  segment->number = number;
  segment->file = std::move(file);
  segments_.emplace(number, std::move(segment));
}

void Log::start(const End& end, std::uint64_t incarnation) {
  chunk_ = end.position;
  header_.incarnation = incarnation;
  header_.previous_entries = end.previous_entries;
  used_ = 0;
  closed_ = false;
  segment_.reset();
  // What another process wrote before may not have reached the disk.
  for (auto& [number, segment] : segments_) segment->unsynced = true;
}

std::uint64_t Log::ready() const {
  return static_cast<std::uint64_t>(std::ranges::count_if(segments_, [this](const auto& entry) { return entry.first > current(); }));
}

std::uint64_t Log::next_number() const {
  const std::uint64_t last = segments_.empty() ? 0 : segments_.rbegin()->first;
  return std::max(last + 1, current());
}

// False, and nothing changed: the segment for it is missing.
bool Log::next_chunk(Use use) {
  const std::uint64_t next = used_ == 0 && !closed_ ? chunk_ : following(chunk_);
  const std::uint64_t number = next / segment_blocks_;
  if (!segment_ || segment_->number != number) {
    const auto found = segments_.find(number);
    if (found == segments_.end()) return false;
    if (use == Use::kGuest && segments_.rbegin()->first == number) return false;
    segment_ = found->second;
  }
  if (next != chunk_) {
    header_.previous_entries = used_;
    chunk_ = next;
    used_ = 0;
  }
  closed_ = false;
  seal(header_, {journal_, chunk_});
  return true;
}

std::uint32_t Log::append(std::span<Entry> entries, std::span<const std::byte> content, Use use, Where& first) {
  if ((used_ == 0 || used_ == kChunkEntries || closed_) && !next_chunk(use)) return 0;
  const auto count = static_cast<std::uint32_t>(std::min<std::size_t>(entries.size(), kChunkEntries - used_));
  const std::uint64_t at = chunk_ % segment_blocks_;  // blocks from the segment's beginning
  segment_->unsynced = true;
  first = Where{chunk_ + used_ + 1};
  if (entries.front().has_content()) segment_->file->write(content.first(count * kBlockBytes), (at + used_ + 1) * kBlockBytes);
  std::array<std::byte, kBlockBytes> descriptor;
  std::memcpy(descriptor.data(), &header_, sizeof header_);
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t number = used_ + 1 + i;
    seal(entries[i], header_, number, entries[i].has_content() ? content.subspan(i * kBlockBytes, kBlockBytes) : content);
    std::memcpy(descriptor.data() + number * sizeof(Entry), &entries[i], sizeof(Entry));
  }
  // A process may be killed between the two: then the slot is written, and nothing speaks of it.
  const std::size_t from = used_ == 0 ? 0 : (used_ + 1) * sizeof(Entry);
  const std::size_t to = (used_ + 1 + count) * sizeof(Entry);
  segment_->file->write(std::span(descriptor).subspan(from, to - from), at * kBlockBytes + from);
  used_ += count;
  appended_ = count;
  entries_ += count;
  return count;
}

Log::End Log::close_chunk() {
  if (used_ == 0) return {chunk_, header_.previous_entries};
  closed_ = true;
  return {following(chunk_), used_};
}

void Log::begin_sync() {
  const std::uint64_t at = chunk_ % segment_blocks_;
  segment_->file->begin_sync(appended_ * kBlockBytes, (at + used_ + 1 - appended_) * kBlockBytes);
  segment_->file->begin_sync(kBlockBytes, at * kBlockBytes);
}

std::vector<Log::Pin> Log::take_unsynced() {
  std::vector<Pin> out;
  for (auto& [number, segment] : segments_) {
    if (segment->unsynced) out.push_back(segment);
    segment->unsynced = false;
  }
  return out;
}

Log::Pin Log::remove(std::uint64_t number) {
  const auto found = segments_.find(number);
  Pin out = std::move(found->second);
  segments_.erase(found);
  return out;
}

}  // namespace mhv::disk
