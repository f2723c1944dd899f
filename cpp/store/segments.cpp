#include "store/segments.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <charconv>
#include <filesystem>

#include "base/error.h"

namespace mhv::store {
namespace {

constexpr std::size_t kOpenedMax = 64;

// The number in "NNNNNNNNNN.ext"; 0 for any other name.
std::uint32_t number_of(const std::string& name, const std::string& extension) {
  if (name.size() != 10 + extension.size() || !name.ends_with(extension)) return 0;
  std::uint32_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + 10, number);
  return error == std::errc{} && end == name.data() + 10 && number <= kSegmentNumberMax ? number : 0;
}

std::map<std::uint32_t, std::uint64_t> numbered_files(const std::string& folder, const std::string& extension) {
  std::map<std::uint32_t, std::uint64_t> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::uint32_t number = number_of(entry.path().filename().string(), extension);
    if (number != 0 && entry.is_regular_file()) found[number] = entry.file_size();
  }
  return found;
}

}  // namespace

std::string numbered(const std::string& folder, std::uint32_t number, const char* extension) {
  return fmt::format("{}/{:010}{}", folder, number, extension);
}

Segments::Segments(const std::string& store_folder, FileOps& files, std::uint64_t roll_bytes)
    : segments_folder_(store_folder + "/segments"), index_folder_(store_folder + "/index"), files_(files), roll_bytes_(roll_bytes) {}

void Segments::open(const Position& committed, KeyIndex& index) {
  end_ = committed;
  auto found = numbered_files(segments_folder_, ".seg");
  for (auto it = found.upper_bound(committed.segment); it != found.end(); it = found.erase(it)) files_.unlink(segment_path(it->first));
  const auto last = found.find(committed.segment);
  if (last != found.end() && last->second > committed.offset) {
    files_.truncate(segment_path(last->first), committed.offset);
    last->second = committed.offset;
  }
  for (const auto& [number, bytes] : numbered_files(index_folder_, ".idx")) {
    if (!found.contains(number)) files_.unlink(index_path(number));
  }
  for (const auto& [number, bytes] : found) load_segment(number, bytes, number == committed.segment, index);
  save_indexes(false);
}

void Segments::load_segment(std::uint32_t number, std::uint64_t bytes, bool last, KeyIndex& index) {
  const std::string path = segment_path(number);
  bool whole = bytes <= kSegmentBytesMax + kRecordBytesMax;
  if (!whole) problems_.push_back(path + ": is longer than any segment");
  if (last && bytes < end_.offset) {
    whole = false;
    problems_.push_back(fmt::format("{}: {} bytes are missing at its end", path, end_.offset - bytes));
  }
  bytes = std::min<std::uint64_t>(bytes, kSegmentBytesMax + kRecordBytesMax);
  const Fd fd = Fd::open(path, O_RDONLY);
  Segment segment{bytes, 0};
  std::vector<std::byte> head(std::min<std::uint64_t>(bytes, sizeof(SegmentHeader)));
  pread_all(fd.get(), head, 0, path.c_str());
  std::optional<IndexFile> saved;
  try {
    segment.identity = parse_segment_header(head, number);
    const std::string text = read_file(index_path(number), kSegmentBytesMax);
    saved = parse_index(std::as_bytes(std::span(text)), number, segment.identity);
  } catch (const Error& error) {
    if (error.code() == Code::kVersion) throw Error(error.code(), path + ": " + error.what(), error.hint());
    if (error.code() == Code::kCorrupt) {
      whole = false;
      problems_.push_back(path + ": " + error.what());
    }
  }
  IndexFile known;
  if (saved && saved->covered <= bytes) known = std::move(*saved);
  known.covered = std::max<std::uint64_t>(known.covered, sizeof(SegmentHeader));
  const bool scanned = known.covered < bytes;
  if (scanned) {
    std::vector<std::byte> content(bytes);
    pread_all(fd.get(), content, 0, path.c_str());
    const Scan scan = scan_records(content, known.covered, bytes);
    if (scan.damaged_bytes != 0) problems_.push_back(fmt::format("{}: {} bytes are damaged", path, scan.damaged_bytes));
    known.entries.insert(known.entries.end(), scan.entries.begin(), scan.entries.end());
  }
  index.reserve(index.size() + known.entries.size());
  for (const IndexEntry& entry : known.entries) index.insert(entry.key, {number, entry.offset, entry.stored});
  segments_[number] = segment;
  if (last && whole) {
    appendable_ = true;
    last_entries_ = std::move(known.entries);
    last_entries_saved_ = !scanned;
  } else if (scanned && whole) {
    unsaved_[number] = std::move(known.entries);
  }
}

std::uint64_t Segments::bytes() const {
  std::uint64_t sum = 0;
  for (const auto& [number, segment] : segments_) sum += segment.bytes;
  return sum;
}

std::shared_ptr<const Fd> Segments::file(std::uint32_t number) const {
  const std::lock_guard lock(opened_mutex_);
  auto& entry = opened_[number];
  if (entry) return entry;
  std::shared_ptr<const Fd> fd;
  try {
    fd = std::make_shared<const Fd>(Fd::open(segment_path(number), O_RDONLY));
  } catch (...) {
    opened_.erase(number);
    throw;
  }
  if (opened_.size() > kOpenedMax) opened_.clear();
  opened_[number] = fd;
  return fd;
}

void Segments::forget(const std::vector<std::uint32_t>& numbers) {
  for (const std::uint32_t number : numbers) {
    segments_.erase(number);
    unsaved_.erase(number);
    if (number == end_.segment) {
      appendable_ = false;
      last_entries_.clear();
    }
    const std::lock_guard lock(opened_mutex_);
    opened_.erase(number);
  }
}

void Segments::delete_files(const std::vector<std::uint32_t>& numbers) {
  for (const std::uint32_t number : numbers) {
    files_.unlink(index_path(number));
    files_.unlink(segment_path(number));
  }
  if (!numbers.empty()) files_.sync_directory(segments_folder_);
}

void Segments::save_indexes(bool with_last) noexcept {
  try {
    if (with_last && appendable_ && !last_entries_saved_) unsaved_[end_.segment] = last_entries_;
    for (auto it = unsaved_.begin(); it != unsaved_.end(); it = unsaved_.erase(it)) {
      const Segment& segment = segments_.at(it->first);
      const std::string path = index_path(it->first);
      const Fd file = files_.create(path);
      files_.write(file, serialize_index(it->first, segment.identity, segment.bytes, it->second), 0, path);
    }
    if (with_last) last_entries_saved_ = true;
  } catch (const std::exception&) {
    unsaved_.clear();  // derived: the next open() reads the segment instead
  }
}

void Segments::cut(std::uint32_t number, std::uint64_t bytes) noexcept {
  try {
    if (bytes == 0) {
      files_.unlink(segment_path(number));
    } else {
      files_.truncate(segment_path(number), bytes);
    }
  } catch (const std::exception&) {
    cuts_[number] = bytes;
  }
}

void Segments::finish_cuts() {
  while (!cuts_.empty()) {
    const auto [number, bytes] = *cuts_.rbegin();
    if (bytes == 0) {
      files_.unlink(segment_path(number));
    } else {
      files_.truncate(segment_path(number), bytes);
    }
    cuts_.erase(number);
  }
}

}  // namespace mhv::store
