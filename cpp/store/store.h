// The checkpoints of one guest, on disk.
//
// INVARIANT: a checkpoint is listed if and only if every page, blob and manifest byte it needs is durable.
// Everything is appended to one log (store/segments.h). A commit is a batch of records that ends with a frame; one fdatasync makes
// it durable, and the frame's checksum of the whole batch is the commit point: a batch that a crash or a full disk
// cut off, or that reached the disk in part, has no such frame and is dropped by the next open.
//
// INVARIANT: a record that a listed checkpoint needs is never deleted before its copy is durable, and the base of a
// delta lives as long as the delta (store/compact.h).
//
// (format drawn in store/format.h)
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/units.h"
#include "keep/policy.h"
#include "keys/key.h"

namespace mhv::store {

// The name of a page's content: a keyed hash (store/page_namer.h says which, and why); all zeros names the page of zeros.
struct PageKey {
  std::array<std::uint8_t, 16> bytes{};
  bool is_zero_page() const { return word(0) == 0 && word(8) == 0; }
  // Two words each, in line: keys are compared several times for every page.
  friend bool operator==(const PageKey& a, const PageKey& b) { return a.word(0) == b.word(0) && a.word(8) == b.word(8); }
  friend auto operator<=>(const PageKey& a, const PageKey& b) { return std::memcmp(a.bytes.data(), b.bytes.data(), 16) <=> 0; }

 private:
  std::uint64_t word(std::size_t at) const {
    std::uint64_t out;
    std::memcpy(&out, bytes.data() + at, sizeof out);
    return out;
  }
};

struct PageEntry {
  PageNo page;
  PageKey key;
};

struct BlockInfo {
  std::string name;  // QEMU's name of the RAM block
  std::uint64_t bytes = 0;
  bool read_only = false;
  friend bool operator==(const BlockInfo&, const BlockInfo&) = default;
};

struct DiskInfo {
  std::string target, path, format, snapshot, note;
  std::uint64_t changed_bytes = 0;  // what it held otherwise than the snapshot
};

// Everything about a checkpoint but its pages.
struct CheckpointInfo {
  std::string id;      // UUID
  std::string parent;  // "" for a root
  std::string name;
  std::int64_t created_ns = 0;
  bool automatic = false;
  std::uint64_t epoch = 0;
  std::uint64_t pause_us = 0;
  std::string machine;  // canonical machine type
  std::string domain_xml;
  std::vector<BlockInfo> blocks;
  std::vector<DiskInfo> disks;
  // Filled by commit():
  std::uint64_t pages = 0;         // entries of its own
  std::uint64_t pages_stored = 0;  // contents that were new
  std::uint64_t bytes_stored = 0;  // what it added to the segments
  std::uint64_t device_state_bytes = 0;
};

// The content of every page at one checkpoint, its chain resolved; index = PageNo.
using PageTable = std::vector<PageKey>;

using ProgressFn = std::function<void(std::uint64_t done, std::uint64_t total)>;

struct CheckResult {
  std::uint64_t checkpoints = 0, records = 0, bytes = 0;
  std::vector<std::string> problems;  // at most 100
  std::vector<std::string> damaged;   // checkpoints that are not whole
};

struct RepairResult {
  std::vector<std::string> lost;  // checkpoints that were dropped
  std::uint64_t kept = 0;
  std::vector<std::string> problems;  // what was wrong; at most 100
};

struct StoreStat {
  std::uint64_t checkpoints = 0, links = 0;                         // links: deleted ones that others still stand on
  std::uint64_t segments = 0, bytes = 0;                            // on the disk
  std::uint64_t contents = 0;                                       // pages with a name of their own
  std::uint64_t raw = 0, lz4 = 0, filled = 0, delta = 0, zstd = 0;  // of them, by encoding
  std::uint64_t raw_bytes = 0, lz4_bytes = 0, filled_bytes = 0, delta_bytes = 0, zstd_bytes = 0;  // of their records
  std::uint64_t pages = 0;  // what the listed checkpoints say of pages, shared or not: pages * 4096 is what is saved from
};

// kDense takes two to three times as long for three quarters of the space. What was stored quickly is stored densely when its segment is
// emptied (store/compact.h), and where it is a root, in any case.
enum class Effort { kQuick, kDense };

struct PageRead {
  PageKey key;
  std::byte* out;  // kPageSize bytes
};

class FileOps;  // store/files.h
class Store;

// One checkpoint being written. Dropped without commit(): nothing remains of it.
class Writer {
 public:
  ~Writer();
  Writer(Writer&&) noexcept;
  // The page's content at this checkpoint, replacing an earlier put() of the same page. Returns its key.
  // Throws Code::kNoSpace; the writer is then only good to be dropped.
  PageKey put(PageNo page, std::span<const std::byte, kPageSize> content);
  void put_device_state(std::span<const std::byte> state);
  // Makes it durable and listed under info.id (a new UUID, lower case); info.blocks says how many pages there are.
  // Throws; nothing is listed then.
  CheckpointInfo commit(CheckpointInfo info);

 private:
  friend class Store;
  struct Impl;
  explicit Writer(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

// `files`, for tests: how the store changes its folder (nullptr: plainly). `segment_bytes`: how long a segment gets. `key`, of this
// guest: a store that is made now is encrypted with it (store/sealing.h), one that was encrypted is opened with it, and one that was
// not stays as it is, or is refused when `refuse_plain`: whoever can write to the disk could have put it there.
struct StoreOptions {
  std::shared_ptr<FileOps> files;
  std::uint64_t segment_bytes = 32u << 20;
  std::optional<keys::Key> key = std::nullopt;
  bool refuse_plain = false;
};

// Thread-safe for readers beside one writer. One process at a time: open() takes a lock on the folder.
// begin() to commit(), remove(), remove_all(), compact() and repair() exclude one another: the later one throws kBusy.
class Store {
 public:
  struct Impl;

  // Makes the folder when it is not there; drops what a crash left half-made. Reads no manifest: the time it takes depends on
  // the number of contents, not on what checkpoints say. Throws kBusy while another process has it, kVersion for another version of the
  // format, kPermission when it is encrypted and the key is not there or another one, kCorrupt with the path and what to run. A damaged
  // record or segment does not keep the rest from being used: check() names it, and what needs it throws kCorrupt.
  static std::unique_ptr<Store> open(const std::string& folder, const StoreOptions& options = {});
  ~Store();

  PageKey key_of(std::span<const std::byte, kPageSize> page) const;
  bool encrypted() const;

  // `parent` "": a root, in which a page that is not put is a page of zeros; else such a page is what it is in the parent.
  // Only one writer at a time (kBusy); it must not outlive the Store. A root is always stored quickly.
  Writer begin(const std::string& parent, Effort effort = Effort::kDense);

  std::size_t count() const;
  bool contains(const std::string& id) const;
  // Oldest first, those behind `after` ("": from the first; kNotFound), at most `limit`. Their domain XML is left out, here and in
  // newest(); a damaged one says only what the catalog knows of it. Costs what it returns.
  std::vector<CheckpointInfo> list(const std::string& after = {}, std::size_t limit = SIZE_MAX) const;
  std::optional<CheckpointInfo> newest() const;
  std::vector<keep::Moment> automatic() const;      // oldest first
  CheckpointInfo get(const std::string& id) const;  // kNotFound
  CheckpointInfo get_without_xml(const std::string& id) const;
  PageTable resolve(const std::string& id) const;
  // Pages that may differ between two checkpoints of the tree (either order), with what they are at `to`.
  std::vector<PageEntry> difference(const std::string& from, const std::string& to) const;
  // Checked against the key: throws kCorrupt rather than hand out a wrong page.
  void read(const PageKey& key, std::span<std::byte, kPageSize> out) const;
  // The same for many, read in the order of their places in the files.
  void read_many(std::span<const PageRead> pages) const;
  std::vector<std::byte> device_state(const std::string& id) const;

  // All of them in one durable step; an unknown one: kNotFound, and nothing is changed. Children keep everything they need. Costs
  // what the checkpoints involved say, not what they hold; space is given back by compact().
  void remove(const std::vector<std::string>& ids);
  void remove_all();
  // One step of giving space back, of about a thirty-second part of a segment. Returns the bytes it read and wrote (for a limit of
  // the bandwidth); nullopt: nothing is to be done. `force`: also where little would be gained.
  std::optional<std::uint64_t> compact(bool force = false);

  CheckResult check(const ProgressFn& progress) const;
  // Drops what is damaged, keeps every checkpoint that is whole.
  RepairResult repair(const ProgressFn& progress);
  StoreStat stat() const;  // reads the heads of all records
  std::uint64_t bytes_on_disk() const;

 private:
  explicit Store(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

}  // namespace mhv::store
