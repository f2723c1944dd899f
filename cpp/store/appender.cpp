#include <algorithm>
#include <random>

#include "base/error.h"
#include "store/random.h"
#include "store/segments.h"

namespace mhv::store {
namespace {

constexpr std::size_t kBufferBytes = 1u << 20;

std::uint64_t random_identity() {
  std::random_device random;
  return (std::uint64_t{random()} << 32) | random();
}

}  // namespace

Appender::Appender(Segments& segments) : segments_(segments) { segments_.finish_cuts(); }

Appender::~Appender() {
  if (published_) return;
  // These offsets of it were sealed. What follows goes to a new segment, and so under a new key.
  if (segments_.seals_ != nullptr && !parts_.empty() && !parts_.front().created) segments_.close_last();
  for (auto part = parts_.rbegin(); part != parts_.rend(); ++part) {
    part->file.close();
    segments_.cut(part->number, part->created ? 0 : part->from);
  }
}

void Appender::begin_segment() {
  const Position& end = segments_.end();
  Part part;
  if (parts_.empty() && segments_.appendable_ && end.offset < segments_.roll_bytes_) {
    part.number = end.segment;
    part.identity = segments_.segments_.at(end.segment).identity;
    part.seal = segments_.segments_.at(end.segment).seal;
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
  const Secret secret = segments_.seals_ != nullptr ? random_bytes<Secret>() : segments_.secret_;
  if (segments_.seals_ != nullptr) part.seal = segments_.seals_->segment(part.number, secret);
  buffer_ = serialize_segment_header(segments_.version(), part.number, part.identity, secret);
  part.to = buffer_.size();
  parts_.push_back(std::move(part));  // before the file is there, so that a failure deletes it
  parts_.back().file = segments_.files_.create(parts_.back().path);
}

Ref Appender::append(Kind kind, const PageKey& key, std::span<const std::byte> payload) {
  if (parts_.empty() || parts_.back().to >= segments_.roll_bytes_) begin_segment();
  Part& part = parts_.back();
  const std::size_t stored = payload.size() + (part.seal ? kTagBytes : 0), bytes = record_bytes(stored), filled = buffer_.size();
  if (buffer_.capacity() < filled + bytes) buffer_.reserve(std::max(kBufferBytes + kPageRecordBytesMax, filled + bytes));
  buffer_.resize(filled + bytes);
  std::byte* const out = buffer_.data() + filled;
  checksum_ = next_batch_checksum(
      checksum_, part.seal ? serialize_sealed(kind, key, payload, *part.seal, part.to, out) : serialize_record(kind, key, payload, out));
  const Ref ref{part.number, static_cast<std::uint32_t>(part.to), static_cast<std::uint32_t>(stored)};
  part.to += bytes;
  bytes_ += bytes;
  if (buffer_.size() >= kBufferBytes) flush();
  return ref;
}

void Appender::append_page(Kind kind, const PageKey& key, std::span<const std::byte> payload) {
  const Ref ref = append(kind, key, payload);
  const PageKey base = base_of(kind, payload);
  parts_.back().pages.push_back({key, ref.offset, ref.stored, base});
  pending_.insert(key, {ref.segment, ref.offset, ref.stored}, base);
}

void Appender::flush() {
  if (buffer_.empty()) return;
  const Part& part = parts_.back();
  segments_.files_.write(part.file, buffer_, part.to - buffer_.size(), part.path);
  buffer_.clear();
}

// All parts are synced, the one with the frame too: which of them reaches the disk first does not matter, for the frame
// counts only with its batch.
void Appender::commit(std::uint64_t number, const Transaction& transaction) {
  const std::string payload = serialize_transaction(transaction);
  append(Kind::kFrame, frame_key(number, checksum_), std::as_bytes(std::span(payload)));
  flush();
  bool created = false;
  for (const Part& part : parts_) {
    segments_.files_.sync(part.file, part.path);
    created = created || part.created;
  }
  if (created) segments_.files_.sync_directory(segments_.segments_folder_);
}

bool Appender::publish(KeyIndex& index) {
  published_ = true;
  bool begun = false;
  index.reserve(index.size() + pending_.size());
  for (Part& part : parts_) {
    if (part.created) {  // whatever was appended to before is full now
      segments_.close_last();
      segments_.appendable_ = true;
      begun = true;
    }
    segments_.segments_[part.number] = {part.to, part.identity, part.seal};
    segments_.end_ = {part.number, part.to};
    for (const IndexedPage& page : part.pages) index.insert(page.key, {part.number, page.offset, page.stored}, page.base);
    segments_.last_pages_.insert(segments_.last_pages_.end(), part.pages.begin(), part.pages.end());
    segments_.last_pages_saved_ = false;
  }
  return begun;
}

}  // namespace mhv::store
