// The log: segment files, appended to by one Appender at a time, read by anybody.
//
// Only the segment in which the committed position stands is appended to; the others are never changed again.
//
// INVARIANT (of an encrypted store): under the key of a segment, an offset is sealed once (sealing.h says why that must be). So a
// segment is begun with a salt, and so a key, of its own; nothing is appended to it after a batch was cut off it (~Appender), nor by
// another process than the one that began it (finish_opening()): both begin a new one.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/fd.h"
#include "store/files.h"
#include "store/key_index.h"
#include "store/sealing.h"

namespace mhv::store {

std::string numbered(const std::string& folder, std::uint32_t number, const char* extension);

class Appender;

// Not thread-safe but for file(), which may be called beside everything else.
class Segments {
 public:
  struct Segment {
    std::uint64_t bytes = 0;  // committed
    std::uint64_t identity = 0;
    std::shared_ptr<const Seal> seal;  // nullptr: the store is not encrypted
  };

  // `roll_bytes`: a segment that has reached it gets no further record.
  Segments(const std::string& store_folder, FileOps& files, std::uint64_t roll_bytes);

  // ---- opening, in this order (recovery.cpp)
  // From here on the store is encrypted. `seals` outlive it.
  void use_seals(const StoreSeals& seals) { seals_ = &seals; }
  // The files that are there, with their lengths; index files of no segment are deleted, and segments before `first`.
  std::map<std::uint32_t, std::uint64_t> list_files(std::uint32_t first);
  // The secret that the headers name; nullopt: no header is whole.
  std::optional<Secret> find_secret(const std::map<std::uint32_t, std::uint64_t>& files) const;
  void use_secret(const Secret& secret) { secret_ = secret; }
  // Takes in one segment, its pages before `bytes`, which are committed, into `index`.
  void load(std::uint32_t number, std::uint64_t bytes, KeyIndex& index);
  // Cuts off what stands behind `end`, and makes durable what stands before it from the segment `unsure` on: a former process
  // may have been killed before it had synced that. The next batch goes to `end`.
  void finish_opening(const Position& end, std::uint32_t unsure, const std::map<std::uint32_t, std::uint64_t>& files);

  const Position& end() const { return end_; }
  const std::map<std::uint32_t, Segment>& all() const { return segments_; }
  std::uint64_t bytes() const;
  // Damage that opening stepped over, one line each.
  const std::vector<std::string>& problems() const { return problems_; }
  // Thread-safe. The file stays readable while it is held, also when it was deleted since.
  std::shared_ptr<const Fd> file(std::uint32_t number) const;
  std::string segment_path(std::uint32_t number) const { return numbered(segments_folder_, number, ".seg"); }
  std::vector<std::byte> read_segment(std::uint32_t number, std::uint64_t bytes) const;
  void read(std::uint32_t number, std::uint64_t offset, std::span<std::byte> out) const;
  std::uint32_t version() const { return seals_ != nullptr ? kSealedVersion : kFormatVersion; }
  // By what stands at the segment's head, in whatever state: what a seal opens proves it. nullptr: the store is not encrypted.
  std::shared_ptr<const Seal> seal_of(std::uint32_t number, std::span<const std::byte> head) const;

  // Forgets segments whose live records are elsewhere by now ...
  void forget(const std::vector<std::uint32_t>& numbers);
  // ... and deletes their files.
  void delete_files(const std::vector<std::uint32_t>& numbers);
  // The next batch begins a new segment.
  void close_last();
  // Index files of segments that are full (or, at the end, of the last too). A failure costs only time at the next open.
  void save_indexes(bool with_last) noexcept;
  // Cuts off what a dropped Appender could not. Throws when it still cannot be done.
  void finish_cuts();

 private:
  friend class Appender;
  void cut(std::uint32_t number, std::uint64_t bytes) noexcept;
  std::string index_path(std::uint32_t number) const { return numbered(index_folder_, number, ".idx"); }

  const std::string segments_folder_, index_folder_;
  FileOps& files_;
  const std::uint64_t roll_bytes_;
  const StoreSeals* seals_ = nullptr;
  Secret secret_{};
  std::map<std::uint32_t, Segment> segments_;
  Position end_;
  bool appendable_ = false;              // end_ stands in a whole segment that may get more records
  std::vector<IndexedPage> last_pages_;  // of the segment in which end_ stands, when appendable_
  bool last_pages_saved_ = false;
  std::map<std::uint32_t, std::vector<IndexedPage>> unsaved_;  // index files to be written
  std::map<std::uint32_t, std::uint64_t> cuts_;                // still to be cut: number -> bytes that stay, 0: delete
  std::vector<std::string> problems_;
  mutable std::mutex opened_mutex_;  // the innermost lock
  mutable std::map<std::uint32_t, std::shared_ptr<const Fd>> opened_;
};

// A batch: records behind the committed position, ended by commit(). Dropped without publish(): they are cut off again.
class Appender {
 public:
  explicit Appender(Segments& segments);
  ~Appender();
  Appender(const Appender&) = delete;
  Appender& operator=(const Appender&) = delete;

  void append_page(Kind kind, const PageKey& key, std::span<const std::byte> payload);
  Ref append(Kind kind, const PageKey& key, std::span<const std::byte> payload);
  std::optional<Content> find(const PageKey& key) const { return pending_.find(key); }
  std::uint64_t bytes() const { return bytes_; }  // of all records so far
  // Adds the frame and makes all of it durable.
  void commit(std::uint64_t number, const Transaction& transaction);
  // They count from now on. The caller holds off all readers of the Segments and of `index`. True: a segment was begun.
  bool publish(KeyIndex& index);

 private:
  struct Part {
    std::uint32_t number = 0;
    std::uint64_t identity = 0, from = 0, to = 0;
    bool created = false;
    std::shared_ptr<const Seal> seal;
    Fd file;
    std::string path;
    std::vector<IndexedPage> pages;
  };
  void begin_segment();
  void flush();

  Segments& segments_;
  std::vector<Part> parts_;
  std::vector<std::byte> buffer_;  // the last part's bytes before `to`
  KeyIndex pending_;
  std::uint64_t bytes_ = 0, checksum_ = 0;
  bool published_ = false;
};

}  // namespace mhv::store
