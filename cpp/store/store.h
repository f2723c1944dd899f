// The checkpoints of one guest, on disk.
//
// INVARIANT: a checkpoint is listed if and only if every page, blob and manifest byte it needs is durable.
// Pages are appended to segments and synced first; the manifest, renamed into place and its folder synced, is the
// commit point. Anything cut off by a crash or a full disk is unreferenced and is dropped by the next open.
//
// (format drawn in store/format.h)
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/units.h"

namespace mhv::store {

// The name of a page's content: the first 128 bits of its SHA-256; all zeros names the page of zeros.
// A store holds one guest, so whoever could afford the 2^64 hashes of a collision would damage only himself.
struct PageKey {
  std::array<std::uint8_t, 16> bytes{};
  bool is_zero_page() const;
  friend auto operator<=>(const PageKey&, const PageKey&) = default;
};
PageKey key_of(std::span<const std::byte, kPageSize> page);

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

struct VerifyResult {
  std::uint64_t checkpoints = 0, records = 0, bytes = 0;
  std::vector<std::string> problems;  // at most 100
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

// For tests: how the store changes its folder (nullptr: plainly), and how long a segment gets.
struct StoreOptions {
  std::shared_ptr<FileOps> files;
  std::uint64_t segment_bytes = 64u << 20;
};

// Thread-safe for readers beside one writer. One process at a time: open() takes a lock on the folder.
// begin() to commit(), remove() and remove_all() exclude one another: the later one throws kBusy.
class Store {
 public:
  struct Impl;

  // Makes the folder when it is not there; drops what a crash left half-made. Throws kBusy while another process has
  // it, kVersion for another version of the format, kCorrupt with the path and what to run. A damaged manifest or segment
  // does not keep the rest from being used: verify() names it, and get() of a checkpoint that needs a damaged manifest
  // throws kCorrupt.
  static std::unique_ptr<Store> open(const std::string& folder, const StoreOptions& options = {});
  ~Store();

  // `parent` "": a root, in which a page that is not put is a page of zeros; else such a page is what it is in the parent.
  // Only one writer at a time (kBusy); it must not outlive the Store.
  Writer begin(const std::string& parent);

  std::vector<CheckpointInfo> list() const;         // oldest first
  CheckpointInfo get(const std::string& id) const;  // kNotFound
  PageTable resolve(const std::string& id) const;
  // Pages that may differ between two checkpoints of the tree (either order), with what they are at `to`.
  std::vector<PageEntry> difference(const std::string& from, const std::string& to) const;
  // Checked against the key: throws kCorrupt rather than hand out a wrong page.
  void read(const PageKey& key, std::span<std::byte, kPageSize> out) const;
  std::vector<std::byte> device_state(const std::string& id) const;

  // Children keep everything they need: they take over its pages first, so a crash before the end leaves it listed and whole.
  // Space of contents that nothing names any more is given back.
  void remove(const std::string& id);
  void remove_all();
  VerifyResult verify(const ProgressFn& progress) const;
  std::uint64_t bytes_on_disk() const;

 private:
  explicit Store(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

}  // namespace mhv::store
