// Giving space back: segments in which nothing lives are deleted, those in which less than half lives are copied.
//
// Copies are durable, and POSITION says so, before a reader is sent to them; the old file is deleted last.
#include <algorithm>

#include "base/error.h"
#include "store/store_impl.h"

namespace mhv::store {
namespace {

struct Moving {
  PageKey key;
  Location from;
};

// Copies the records of `moving` (in the order of their places). False: one cannot be read.
bool copy_records(const Segments& segments, std::span<const Moving> moving, Appender& to) {
  std::array<std::byte, kRecordBytesMax> buffer;
  for (const Moving& move : moving) {
    const auto bytes = std::span(buffer).first(record_bytes(move.from.stored));
    pread_all(segments.file(move.from.segment)->get(), bytes, move.from.offset, "segment");
    const auto record = parse_record(bytes);
    if (!record || record->key != move.key) return false;
    to.append(record->key, record->encoding, record->payload);
  }
  return true;
}

}  // namespace

// Every key that a manifest names, with its place. False: some manifest cannot be read, so nobody knows.
bool Store::Impl::find_live(KeyIndex& live) const {
  if (!damaged.empty()) return false;
  const auto add = [&](const PageKey& key) {
    if (key.is_zero_page() || live.find(key)) return;
    if (const auto location = index.find(key)) live.insert(key, *location);
  };
  try {
    for (const auto& [id, node] : nodes) {
      for (const PageKey& key : node->device_state) add(key);
      for (const PageEntry& entry : load_manifest(id).entries) add(entry.key);
    }
  } catch (const Error& error) {
    if (error.code() != Code::kCorrupt) throw;
    return false;
  }
  return true;
}

void Store::Impl::collect_garbage() {
  settle_position();
  KeyIndex live;
  if (!find_live(live)) return;
  std::map<std::uint32_t, std::uint64_t> live_bytes;
  live.for_each([&](const PageKey&, const Location& at) { live_bytes[at.segment] += record_bytes(at.stored); });
  std::vector<std::uint32_t> dead, sparse;
  for (const auto& [number, segment] : segments.all()) {
    const auto found = live_bytes.find(number);
    if (found == live_bytes.end()) {
      dead.push_back(number);
    } else if (found->second * 2 < segment.bytes - std::min<std::uint64_t>(segment.bytes, sizeof(SegmentHeader))) {
      sparse.push_back(number);
    }
  }
  drop_segments(dead);
  if (sparse.empty()) return;

  std::vector<Moving> moving;
  live.for_each([&](const PageKey& key, const Location& at) {
    if (std::binary_search(sparse.begin(), sparse.end(), at.segment)) moving.push_back({key, at});
  });
  const auto place = [](const Moving& m) { return std::pair(m.from.segment, m.from.offset); };
  std::sort(moving.begin(), moving.end(), [&](const Moving& a, const Moving& b) { return place(a) < place(b); });
  try {
    {
      Appender appender(segments, std::binary_search(sparse.begin(), sparse.end(), segments.end().segment));
      if (!copy_records(segments, moving, appender)) return;
      appender.sync();
      const std::unique_lock guard(mutex);
      appender.publish(index);
      position_owed = true;
    }
    settle_position();
    drop_segments(sparse);
  } catch (const Error& error) {
    // The deletion itself is done, and copying needs room: the next collection tries again.
    if (error.code() != Code::kNoSpace && error.code() != Code::kCorrupt) throw;
  }
}

// No file may be deleted before this has succeeded: until then the next open() would cut the copies off.
void Store::Impl::settle_position() {
  if (!position_owed) return;
  replace(*files, folder + "/POSITION", serialize_position(segments.end()));
  position_owed = false;
}

// Forgets and deletes segments in which nothing lives.
void Store::Impl::drop_segments(const std::vector<std::uint32_t>& numbers) {
  if (numbers.empty()) return;
  KeyIndex kept;
  index.for_each([&](const PageKey& key, const Location& at) {
    if (!std::binary_search(numbers.begin(), numbers.end(), at.segment)) kept.insert(key, at);
  });
  {
    const std::unique_lock guard(mutex);
    index = std::move(kept);
    segments.forget(numbers);
  }
  segments.delete_files(numbers);
}

}  // namespace mhv::store
