// What Store, Writer and the garbage collection share.
//
// Lock order: writing (one holder: a Writer, remove() or remove_all()) -> mutex -> the Segments' own.
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
#include "store/segments.h"
#include "store/store.h"

namespace mhv::store {

// A checkpoint in memory: all of its manifest but the pages. Never changed, only replaced.
struct Node : ManifestHead {
  std::uint64_t file_bytes = 0;
};
using NodePtr = std::shared_ptr<const Node>;

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

struct Store::Impl {
  Impl(const std::string& store_folder, const StoreOptions& options);
  ~Impl();

  // ---- opening (open.cpp)
  void open();
  void lock_folder();
  void check_format();
  void drop_leftovers();
  void load_manifests();
  Position committed_position();
  void find_broken();

  // ---- reading (store.cpp); `mutex` is taken inside
  std::string manifest_path(const std::string& id) const { return manifests_folder + "/" + id + ".mhv"; }
  Manifest load_manifest(const std::string& id) const;
  NodePtr node(const std::string& id) const;  // caller holds `mutex`; kNotFound, kCorrupt
  // The checkpoint first, its root last.
  std::vector<NodePtr> chain(const std::string& id) const;
  PageTable resolve(const std::string& id) const;
  void read(const PageKey& key, std::span<std::byte, kPageSize> out) const;

  // ---- deleting (remove.cpp, gc.cpp); the caller holds `writing`
  void remove(const std::string& id);
  void remove_damaged(const std::string& id);
  void remove_all();
  void inherit(const Manifest& from, const std::string& child);
  void clean_up();
  void collect_garbage();
  bool find_live(KeyIndex& live) const;
  void settle_position();
  void drop_segments(const std::vector<std::uint32_t>& numbers);

  const std::string folder, manifests_folder;
  const std::shared_ptr<FileOps> files;
  Fd lock;
  std::atomic_flag writing;

  mutable std::shared_mutex mutex;  // guards all that follows
  std::map<std::string, NodePtr> nodes;
  std::map<std::string, std::string> damaged;  // manifests that cannot be read: id -> why
  std::map<std::string, std::string> broken;   // nodes that need a damaged or missing one: id -> which
  std::vector<std::string> problems;           // found by open()
  std::set<std::string> strays;                // manifests that were not committed and could not be deleted
  KeyIndex index;
  Segments segments;
  std::string table_id;  // the checkpoint that `table` belongs to; "": none, and `table` is empty
  PageTable table;       // resolved, kept for the next commit on top of it
  std::uint64_t next_sequence = 1;
  bool removal_owed = false;   // remove_all() has not ended
  bool position_owed = false;  // records were copied, and POSITION does not cover them yet
};

void set_entries(PageTable& table, std::span<const PageEntry> entries);

}  // namespace mhv::store
