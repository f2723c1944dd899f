#include <algorithm>
#include <random>

#include "base/error.h"
#include "store/segments.h"

namespace mhv::store {
namespace {

constexpr std::size_t kBufferBytes = 1u << 20;

std::uint64_t random_identity() {
  std::random_device random;
  return (std::uint64_t{random()} << 32) | random();
}

}  // namespace

Appender::Appender(Segments& segments, bool fresh) : segments_(segments), fresh_(fresh) { segments_.finish_cuts(); }

Appender::~Appender() {
  if (published_) return;
  for (auto part = parts_.rbegin(); part != parts_.rend(); ++part) {
    part->file.close();
    segments_.cut(part->number, part->created ? 0 : part->from);
  }
}

void Appender::begin_segment() {
  const Position& end = segments_.end();
  Part part;
  if (parts_.empty() && !fresh_ && segments_.appendable_ && end.offset < segments_.roll_bytes_) {
    part.number = end.segment;
    part.identity = segments_.segments_.at(end.segment).identity;
    part.from = part.to = end.offset;
    part.path = segments_.segment_path(part.number);
    part.file = segments_.files_.open_to_write(part.path);
    parts_.push_back(std::move(part));
    return;
  }
  if (!parts_.empty()) flush();
  part.number = (parts_.empty() ? end.segment : parts_.back().number) + 1;
  if (part.number > kSegmentNumberMax)
    throw Error(Code::kNoSpace, "the store has used up all segment numbers", "delete the guest's checkpoints");
  part.identity = random_identity();
  part.created = true;
  part.path = segments_.segment_path(part.number);
  const auto header = serialize_segment_header(part.number, part.identity);
  part.to = header.size();
  parts_.push_back(std::move(part));  // before the file is there, so that a failure deletes it
  parts_.back().file = segments_.files_.create(parts_.back().path);
  std::copy(header.begin(), header.end(), buffer_.get());
  filled_ = header.size();
}

void Appender::append(const PageKey& key, Encoding encoding, std::span<const std::byte> payload) {
  if (!buffer_) buffer_ = std::make_unique_for_overwrite<std::byte[]>(kBufferBytes + kRecordBytesMax);
  if (parts_.empty() || parts_.back().to >= segments_.roll_bytes_) begin_segment();
  Part& part = parts_.back();
  const std::size_t bytes = record_bytes(payload.size());
  serialize_record(key, encoding, payload, buffer_.get() + filled_);
  filled_ += bytes;
  const auto offset = static_cast<std::uint32_t>(part.to);
  const auto stored = static_cast<std::uint16_t>(payload.size());
  part.entries.push_back({key, offset, stored, 0});
  pending_.insert(key, {part.number, offset, stored});
  part.to += bytes;
  bytes_ += bytes;
  if (filled_ >= kBufferBytes) flush();
}

void Appender::flush() {
  if (filled_ == 0) return;
  const Part& part = parts_.back();
  segments_.files_.write(part.file, std::span(buffer_.get(), filled_), part.to - filled_, part.path);
  filled_ = 0;
}

Position Appender::sync() {
  if (parts_.empty()) return segments_.end();
  flush();
  bool created = false;
  for (const Part& part : parts_) {
    segments_.files_.sync(part.file, part.path);
    created = created || part.created;
  }
  if (created) segments_.files_.sync_directory(segments_.segments_folder_);
  return {parts_.back().number, parts_.back().to};
}

void Appender::publish(KeyIndex& index) {
  published_ = true;
  index.reserve(index.size() + pending_.size());
  for (Part& part : parts_) {
    if (part.created) {  // whatever was appended to before is full now
      if (segments_.appendable_) segments_.unsaved_[segments_.end_.segment] = std::move(segments_.last_entries_);
      segments_.last_entries_.clear();
      segments_.appendable_ = true;
    }
    segments_.segments_[part.number] = {part.to, part.identity};
    segments_.end_ = {part.number, part.to};
    for (const IndexEntry& entry : part.entries) index.insert(entry.key, {part.number, entry.offset, entry.stored});
    segments_.last_entries_.insert(segments_.last_entries_.end(), part.entries.begin(), part.entries.end());
    segments_.last_entries_saved_ = false;
  }
}

}  // namespace mhv::store
