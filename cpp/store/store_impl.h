// What Store, Writer, the deletion and the compaction share.
//
// Lock order: writing (one holder: a Writer, remove(), remove_all(), compact() or repair()) -> mutex -> the Segments' own.
// The holder of `writing` is the only one that changes anything, and does so under an exclusive `mutex`; so it
// reads without any lock, and all others read under a shared one. No file is read or written under an exclusive `mutex`.
#pragma once

#include <atomic>
#include <map>
#include <set>
#include <shared_mutex>
#include <string>
#include <vector>

#include "base/fd.h"
#include "store/base_cache.h"
#include "store/compact.h"
#include "store/page_namer.h"
#include "store/sealing.h"
#include "store/segments.h"
#include "store/store.h"
#include "store/tree.h"

namespace mhv::store {

// Holds `writing`; throws kBusy when another does.
class WriteToken {
 public:
  explicit WriteToken(std::atomic_flag& flag);
  ~WriteToken() { flag_.clear(); }
  WriteToken(const WriteToken&) = delete;
  WriteToken& operator=(const WriteToken&) = delete;

 private:
  std::atomic_flag& flag_;
};

// A record that stays readable, also when it is moved now.
struct Pinned {
  Ref ref;
  std::shared_ptr<const Fd> file;
  std::shared_ptr<const Seal> seal;  // nullptr: the store is not encrypted
};

struct Store::Impl {
  Impl(const std::string& store_folder, const StoreOptions& options);
  ~Impl();

  // ---- opening (open.cpp, recovery.cpp)
  void open();
  void lock_folder();
  void check_format();
  void use_key(const FormatLine& format);
  Catalog load_catalog();
  void recover(const Catalog& catalog);
  void find_broken();
  void save_catalog();  // caller holds `writing`

  // ---- reading (read.cpp); `mutex` is taken inside where nothing else is said
  LinkPtr link(const std::string& id) const;  // caller holds `mutex`; kNotFound, kCorrupt
  Pinned pin(const Ref& ref) const;           // caller holds `mutex`
  std::vector<Pinned> pin(std::span<const Ref> refs) const;
  void read_at(const Fd& file, std::span<std::byte> out, std::uint32_t segment, std::uint64_t offset) const;  // names what ends early
  std::vector<std::byte> payload(const Pinned& record, Kind kind) const;
  InfoRecord load_info(const Pinned& record, const std::string& id) const;
  CheckpointInfo describe(const LinkPtr& link, const std::string& parent, const Pinned& info) const;
  CheckpointInfo get(const std::string& id, InfoRecord& about) const;
  std::vector<PageEntry> load_entries(std::span<const Pinned> records) const;
  std::vector<PageEntry> load_entries(const Link& link) const;  // caller holds `writing`
  PageTable resolve(const std::string& id) const;
  void read(const PageKey& key, std::span<std::byte, kPageSize> out) const;
  std::vector<std::byte> read_blob(std::span<const PageKey> keys, std::uint64_t bytes) const;
  // The entries of a link that some checkpoint still sees: of a hidden one, those that no link below writes over. Whoever holds
  // `writing` need not hold `mutex`.
  std::vector<PageEntry> visible_entries(const Link& link) const;

  // ---- changing (remove.cpp, compact.cpp); the caller holds `writing`
  void commit(Appender& appender, const Transaction& transaction);
  void remove(const std::vector<std::string>& ids, const std::set<std::string>& unreadable);
  void remove_all();
  void mark_live(const PageKey& key);
  void start_cycle(bool all);
  std::uint64_t mark_some();
  void choose_victims();
  // One step of appending to the log again what lives in the last victim, which then is no victim any more. Returns the bytes read
  // and written. `despite_damage`: what cannot be read is given up; else such a segment stays.
  std::uint64_t empty_some(bool despite_damage);
  std::uint64_t move_pages(std::uint32_t segment, bool despite_damage);
  std::uint64_t move_links(std::uint32_t segment);
  void next_victim();
  void rescue(const std::vector<std::uint32_t>& damaged_segments);  // check.cpp
  void retire_emptied();
  void drop_moved();

  const std::string folder;
  const std::shared_ptr<FileOps> files;
  std::optional<keys::Key> guest_key;  // until the store is open
  const bool refuse_plain;
  const std::uint64_t step_bytes;   // of a step of compact()
  std::optional<StoreSeals> seals;  // of an encrypted store, from check_format() on
  Fd lock;
  std::atomic_flag writing;
  std::optional<PageNamer> name;

  mutable std::shared_mutex mutex;  // guards all that follows
  Tree tree;
  std::map<std::string, std::string> broken;  // links that need a missing one: id -> which
  std::vector<std::string> problems;          // found by open()
  KeyIndex index;
  Segments segments;
  std::string table_id;  // the checkpoint that `table` belongs to; "": none, and `table` is empty
  PageTable table;       // resolved, kept for the next commit on top of it

  // Of the holder of `writing`:
  std::uint64_t number = 0;  // of the last frame
  std::uint64_t next_sequence = 1;
  std::uint32_t first_segment = 1;
  Secret secret{};
  Position catalog_end;  // of the CATALOG on the disk
  BaseCache bases;
  Cycle cycle;
};

void set_entries(PageTable& table, std::span<const PageEntry> entries);
// Writes entries as records of at most kEntriesOfRecord.
std::vector<Ref> append_entries(Appender& appender, std::span<const PageEntry> entries);

}  // namespace mhv::store
