// How a journal begins, and how it comes back: the index, then the entries behind it.
#include <sys/random.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "disk/journal.h"

namespace mhv::disk {
namespace {

constexpr const char* kIndex = "INDEX";
constexpr const char* kUnfinished = "new";

}  // namespace

bool journal_exists(const std::string& path) { return std::filesystem::exists(path + "/" + kIndex); }

Journal::Journal(std::unique_ptr<Folder> folder, std::unique_ptr<BaseImage> base, const JournalOptions& options)
    : folder_(std::move(folder)), base_(std::move(base)), options_(options) {
  bytes_ = base_->bytes();
  if (bytes_ / kBlockBytes >= kDiskBlocksMax) throw Error(Code::kUnsupported, "the disk is too large for a journal");
  folder_->unlink(kUnfinished);
  bool there = false;
  for (const std::string& name : folder_->list()) there = there || name == kIndex;
  if (there) {
    recover();
  } else {
    begin();
  }
  const std::lock_guard clean(clean_);
  write_index();  // from here on the incarnation is taken
}

void prepare_journal(Folder& folder, const JournalOptions& options) {
  folder.unlink(kUnfinished);
  const std::vector<std::string> names = folder.list();
  for (std::uint64_t number = 1; number <= kReadyWanted; ++number) {
    if (std::ranges::find(names, segment_name(number)) != names.end()) continue;
    folder.create(kUnfinished, std::uint64_t{options.segment_blocks} * kBlockBytes)->sync();
    folder.rename(kUnfinished, segment_name(number));
    folder.sync();
  }
}

// Segments that were prepared, or left by an attempt that ended before the first index, are as good as new ones: whatever stands in
// them was not written under this journal's id.
void Journal::begin() {
  if (::getrandom(&id_, sizeof id_, 0) != static_cast<ssize_t>(sizeof id_)) throw_errno("cannot get random bytes");
  segment_blocks_ = options_.segment_blocks;
  incarnation_ = 1;
  history_ = std::make_unique<History>((bytes_ + kBlockBytes - 1) / kBlockBytes, segment_blocks_);
  log_ = std::make_unique<Log>(id_, segment_blocks_);
  std::set<std::uint64_t> numbers;
  for (const std::string& name : folder_->list()) {
    if (const auto number = parse_segment_name(name)) numbers.insert(*number);
  }
  for (const std::uint64_t number : numbers) {
    std::unique_ptr<File> file = folder_->open(segment_name(number));
    const bool fits = number == log_->segments().size() + 1 && file->bytes() == std::uint64_t{segment_blocks_} * kBlockBytes;
    if (fits) {
      log_->add(number, std::move(file));
    } else {
      folder_->unlink(segment_name(number));
    }
  }
  folder_->sync();
  log_->start({segment_blocks_, 0}, incarnation_);
}

void Journal::recover() {
  const std::unique_ptr<File> file = folder_->open(kIndex);
  const std::uint64_t file_bytes = file->bytes();
  std::array<std::byte, sizeof(IndexHeader)> head;
  if (file_bytes < head.size()) throw Error(Code::kCorrupt, "a journal's index is cut short");
  file->read(head, 0);
  const IndexHeader index = parse_index_header(head, file_bytes);
  std::vector<std::uint64_t> words(static_cast<std::size_t>(index.words));
  file->read(std::as_writable_bytes(std::span(words)), sizeof index);
  if (!proves(index, words)) throw Error(Code::kCorrupt, "a journal's index is damaged");
  if (index.disk_bytes != bytes_) {
    throw Error(Code::kInvalid, "the journal belongs to a disk of " + std::to_string(index.disk_bytes) + " bytes, the base image has " +
                                    std::to_string(bytes_));
  }
  id_ = index.journal;
  segment_blocks_ = index.segment_blocks;
  log_ = std::make_unique<Log>(id_, segment_blocks_);
  std::set<std::uint64_t> segments;
  for (const std::string& name : folder_->list()) {
    const auto number = parse_segment_name(name);
    if (!number) continue;
    std::unique_ptr<File> segment = folder_->open(name);
    if (segment->bytes() != std::uint64_t{segment_blocks_} * kBlockBytes) throw Error(Code::kCorrupt, name + " has a wrong length");
    segments.insert(*number);
    log_->add(*number, std::move(segment));
  }
  history_ = std::make_unique<History>((bytes_ + kBlockBytes - 1) / kBlockBytes, segment_blocks_);
  history_->load(words, segments);
  replay(index);
}

void Journal::replay(const IndexHeader& index) {
  Log::End end{index.position, index.previous_entries};
  incarnation_ = index.incarnation;
  std::vector<std::byte> chunk(kChunkBlocks * kBlockBytes);
  for (;;) {
    const auto segment = log_->segments().find(end.position / segment_blocks_);
    if (segment == log_->segments().end()) break;
    segment->second->file->read(chunk, end.position % segment_blocks_ * kBlockBytes);
    const auto header = parse_chunk(Descriptor(chunk.data(), kBlockBytes), {id_, end.position});
    // A chunk of an incarnation before: what a power loss left behind a hole.
    if (!header || header->previous_entries != end.previous_entries || header->incarnation < incarnation_) break;
    const std::uint32_t count = replay_chunk(end.position, *header, chunk);
    if (count == 0) break;
    incarnation_ = header->incarnation;
    end = {end.position + kChunkBlocks, count};
  }
  ++incarnation_;
  log_->start(end, incarnation_);
}

// How many entries of the chunk count.
std::uint32_t Journal::replay_chunk(std::uint64_t position, const ChunkHeader& header, std::span<const std::byte> chunk) {
  const Descriptor descriptor(chunk.data(), kBlockBytes);
  for (std::uint32_t number = 1; number <= kChunkEntries; ++number) {
    const Entry entry = load_entry(descriptor, number);
    if (!proves(entry, header, number, chunk.subspan(number * kBlockBytes, kBlockBytes))) return number - 1;
    apply(entry, {position + number});
  }
  return kChunkEntries;
}

// Checksums say that this journal wrote the entry, so it fits; still nothing is indexed by it unchecked.
void Journal::apply(const Entry& entry, Where slot) {
  const MarkName name{entry.a, entry.b};
  const bool fits = entry.a < history_->blocks() && entry.count <= history_->blocks() - entry.a;
  const auto damaged = [] { return Error(Code::kCorrupt, "the log of a journal contradicts itself"); };
  switch (entry.kind) {
    case Kind::kData:
      if (!fits) throw damaged();
      return history_->write(entry.a, slot);
    case Kind::kZero:
      if (!fits) throw damaged();
      for (std::uint32_t i = 0; i < entry.count; ++i) history_->write(entry.a + i, kZeros);
      return;
    case Kind::kMove:
      if (!fits || !history_->relocate(entry.a, Where{entry.b}, slot)) throw damaged();
      return;
    case Kind::kMark: return history_->mark(name);
    case Kind::kRollback: return history_->rollback(name);
    case Kind::kDrop: return history_->drop(name);
  }
}

}  // namespace mhv::disk
