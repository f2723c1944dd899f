#include "store/segments.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <charconv>
#include <filesystem>

#include "base/error.h"

namespace mhv::store {
namespace {

constexpr std::size_t kOpenedMax = 256;
constexpr std::uint64_t kFileBytesMax = kSegmentBytesMax + 2 * std::uint64_t{kStoredMax};

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

std::map<std::uint32_t, std::uint64_t> Segments::list_files(std::uint32_t first) {
  auto found = numbered_files(segments_folder_, ".seg");
  for (auto it = found.begin(); it != found.end() && it->first < first; it = found.erase(it)) files_.unlink(segment_path(it->first));
  for (const auto& [number, bytes] : numbered_files(index_folder_, ".idx")) {
    if (!found.contains(number)) files_.unlink(index_path(number));
  }
  return found;
}

std::optional<Secret> Segments::find_secret(const std::map<std::uint32_t, std::uint64_t>& files) const {
  for (const auto& [number, bytes] : files) {
    try {
      std::vector<std::byte> head(std::min<std::uint64_t>(bytes, sizeof(SegmentHeader)));
      pread_all(Fd::open(segment_path(number), O_RDONLY).get(), head, 0, "segment");
      return parse_segment_header(head, version(), number).secret;
    } catch (const Error& error) {
      if (error.code() == Code::kVersion) throw Error(error.code(), segment_path(number) + ": " + error.what(), error.hint());
    }
  }
  return std::nullopt;
}

std::shared_ptr<const Seal> Segments::seal_of(std::uint32_t number, std::span<const std::byte> head) const {
  return seals_ != nullptr ? seals_->segment(number, secret_in(head)) : nullptr;
}

std::vector<std::byte> Segments::read_segment(std::uint32_t number, std::uint64_t bytes) const {
  std::vector<std::byte> out(std::min(bytes, kFileBytesMax));
  read(number, 0, out);
  return out;
}

void Segments::read(std::uint32_t number, std::uint64_t offset, std::span<std::byte> out) const {
  pread_all(file(number)->get(), out, offset, segment_path(number).c_str());
}

void Segments::load(std::uint32_t number, std::uint64_t bytes, KeyIndex& index) {
  const std::string path = segment_path(number);
  bool whole = bytes <= kFileBytesMax;
  if (!whole) problems_.push_back(path + ": is longer than any segment");
  bytes = std::min(bytes, kFileBytesMax);
  Segment segment{bytes, 0, nullptr};
  IndexFile known;
  std::vector<std::byte> head(std::min<std::uint64_t>(bytes, sizeof(SegmentHeader)));
  try {
    pread_all(file(number)->get(), head, 0, path.c_str());
    const SegmentHeader header = parse_segment_header(head, version(), number);
    segment.identity = header.identity;
    if (seals_ == nullptr && header.secret != secret_) throw Error(Code::kCorrupt, "segment is of another store");
    const std::string text = read_file(index_path(number), 2 * kFileBytesMax);
    if (auto saved = parse_index(std::as_bytes(std::span(text)), number, segment.identity); saved && saved->covered <= bytes) {
      known = std::move(*saved);
    }
  } catch (const Error& error) {
    if (error.code() == Code::kVersion) throw Error(error.code(), path + ": " + error.what(), error.hint());
    if (error.code() == Code::kCorrupt) {
      whole = false;
      problems_.push_back(path + ": " + error.what());
    }
  }
  segment.seal = seal_of(number, head);
  known.covered = std::max<std::uint64_t>(known.covered, sizeof(SegmentHeader));
  const bool scanned = known.covered < bytes;
  if (scanned) {
    std::array<std::byte, kPageStoredMax> room;
    std::uint64_t altered = 0;
    const std::uint64_t damaged =
        scan_records(read_segment(number, bytes), known.covered, bytes, [&](const Record& record, std::uint64_t offset) {
          if (!is_page(record.kind)) return;
          const auto payload = open_record(record, segment.seal.get(), offset, room);
          if (!payload) {
            altered += record.bytes();
            return;
          }
          known.pages.push_back({record.key, static_cast<std::uint32_t>(offset), static_cast<std::uint32_t>(record.payload.size()),
                                 base_of(record.kind, *payload)});
        });
    if (damaged + altered != 0) {
      whole = false;
      problems_.push_back(fmt::format("{}: {} bytes are damaged", path, damaged + altered));
    }
  }
  index.reserve(index.size() + known.pages.size());
  for (const IndexedPage& page : known.pages) index.insert(page.key, {number, page.offset, page.stored}, page.base);
  segments_[number] = segment;
  // The last one that is loaded is the one that may be appended to.
  if (appendable_ && !last_pages_saved_) unsaved_[end_.segment] = std::move(last_pages_);
  end_ = {number, bytes};
  appendable_ = whole;
  last_pages_ = std::move(known.pages);
  last_pages_saved_ = !scanned;
}

void Segments::finish_opening(const Position& end, std::uint32_t unsure, const std::map<std::uint32_t, std::uint64_t>& files) {
  for (auto it = files.rbegin(); it != files.rend() && it->first > end.segment; ++it) files_.unlink(segment_path(it->first));
  const auto last = files.find(end.segment);
  if (last != files.end() && last->second > end.offset) files_.truncate(segment_path(last->first), end.offset);
  if (last != files.end() && last->second < end.offset) {
    appendable_ = false;
    problems_.push_back(fmt::format("{}: {} bytes are missing at its end", segment_path(end.segment), end.offset - last->second));
  }
  if (end_ != end) appendable_ = false;
  end_ = end;
  if (seals_ != nullptr) close_last();
  for (auto it = files.lower_bound(unsure); it != files.end() && it->first <= end.segment; ++it) {
    const std::string path = segment_path(it->first);
    files_.sync(files_.open_to_write(path), path);
  }
  if (!files.empty()) files_.sync_directory(segments_folder_);
  const std::lock_guard lock(opened_mutex_);
  opened_.clear();  // a deleted file's number is used again
  save_indexes(false);
}

std::uint64_t Segments::bytes() const {
  std::uint64_t sum = 0;
  for (const auto& [number, segment] : segments_) sum += segment.bytes;
  return sum;
}

std::shared_ptr<const Fd> Segments::file(std::uint32_t number) const {
  const std::lock_guard lock(opened_mutex_);
  const auto known = opened_.find(number);
  if (known != opened_.end()) return known->second;
  auto fd = std::make_shared<const Fd>(Fd::open(segment_path(number), O_RDONLY));
  if (opened_.size() >= kOpenedMax) opened_.clear();
  opened_[number] = fd;
  return fd;
}

void Segments::forget(const std::vector<std::uint32_t>& numbers) {
  for (const std::uint32_t number : numbers) {
    segments_.erase(number);
    unsaved_.erase(number);
    if (number == end_.segment) {
      appendable_ = false;
      last_pages_.clear();
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

void Segments::close_last() {
  if (appendable_ && !last_pages_saved_) unsaved_[end_.segment] = std::move(last_pages_);
  last_pages_.clear();
  appendable_ = false;
}

void Segments::save_indexes(bool with_last) noexcept {
  try {
    if (with_last && appendable_ && !last_pages_saved_) unsaved_[end_.segment] = last_pages_;
    for (auto it = unsaved_.begin(); it != unsaved_.end(); it = unsaved_.erase(it)) {
      const Segment& segment = segments_.at(it->first);
      const std::string path = index_path(it->first);
      const Fd file = files_.create(path);
      files_.write(file, serialize_index(it->first, segment.identity, segment.bytes, it->second), 0, path);
    }
    if (with_last) last_pages_saved_ = true;
  } catch (const std::exception&) {
    unsaved_.clear();  // derived: the next open() reads the segment instead
  }
}

void Segments::cut(std::uint32_t number, std::uint64_t bytes) noexcept {
  {
    const std::lock_guard lock(opened_mutex_);
    opened_.erase(number);
  }
  cuts_[number] = bytes;
  try {
    finish_cuts();
  } catch (const std::exception&) {  // the next Appender tries again before it writes
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
