// An epoch journal: a disk made of a base image and a redo log above it. What the guest writes goes to the log; a mark ends an
// epoch and costs one log entry; going back to a mark changes a map.
//
// INVARIANTS
//  1. After a kill of the process the disk is what was acknowledged. After a power loss it is the disk as of some entry of the log
//     at or behind the last acknowledged flush(), with every mark made up to that entry, whole. Entries are in the order in which
//     requests were acknowledged, and count up to the first that is not whole (format.h).
//  2. A slot of the log is used again only when the durable index does not need it. A block of the base image is overwritten only
//     when the durable log says that no version needs it.
//  3. The index is written only of entries that are durable themselves.
//
// FLUSH. A guest's flush is acknowledged when an fdatasync of the log is done, as with QEMU's writeback caching: it survives a power
// loss of the host. Flushes that wait for one another share one fdatasync, and a flush with nothing new returns at once.
// Flush::kAtMark acknowledges a flush at once instead: what a power loss leaves is then the disk at the last sync() at the earliest.
// It is for guests whose output is held until the checkpoint is committed, and for nobody else.
//
// SPACE. When the log is full, write() folds and compacts in line: the guest is slowed down to the speed of the base image. When
// that does not help (kept marks fill the log, or the file system is full), it throws kNoSpace and nothing is lost: QEMU's werror
// policy stops the guest, which goes on when marks were dropped or the file system has room. Control requests have a segment
// of their own for that.
//
// LOCKS, in this order: clean_ (folding, compacting, writing the index: the only user of the folder) > flush_ > state_ (everything else).
// A read that found its block in the base image goes on without a lock; folding waits for such reads before it overwrites
// what they may still look at (wait_for_readers), and later ones find the newer version.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "disk/base_image.h"
#include "disk/files.h"
#include "disk/history.h"
#include "disk/log.h"

namespace mhv::disk {

enum class Flush { kSync, kAtMark };

struct JournalOptions {
  std::uint32_t segment_blocks = 16384;  // 64 MiB; of a new journal
  std::uint32_t segments_max = 160;      // 10 GiB
  std::uint32_t segments_kept = 8;       // the log is folded down to this while it can be
  Flush flush = Flush::kSync;
};

struct JournalStat {
  std::uint64_t disk_bytes = 0;
  std::uint64_t log_bytes = 0;   // on the file system
  std::uint64_t live_bytes = 0;  // of them, versions that somebody needs
  std::uint64_t marks = 0;
  std::uint64_t entries = 0;         // appended since open
  std::uint64_t synced_entries = 0;  // of them, durable
  std::uint64_t folded_blocks = 0;   // since open
  std::uint64_t moved_blocks = 0;    // since open
};

// Segments ready to be written: the current one full, the next begun, the last kept back.
inline constexpr std::uint64_t kReadyWanted = 3;

// Makes the segments of a journal that will begin in this folder, so that its first writes do not wait for them. kNoSpace.
void prepare_journal(Folder& folder, const JournalOptions& options);

// Whether there is a journal in a folder.
bool journal_exists(const std::string& path);

// Thread-safe. `base` and `folder` are used by nobody else meanwhile. Offsets and lengths are in bytes, of any alignment.
class Journal {
 public:
  // Opens the journal in `folder`, or begins one when there is none. Throws kCorrupt, kVersion, kInvalid (another base image).
  Journal(std::unique_ptr<Folder> folder, std::unique_ptr<BaseImage> base, const JournalOptions& options);
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  std::uint64_t bytes() const { return bytes_; }

  void read(std::span<std::byte> out, std::uint64_t offset);
  void write(std::span<const std::byte> data, std::uint64_t offset);  // kNoSpace
  void zero(std::uint64_t bytes, std::uint64_t offset);               // reads as zeros from now on; kNoSpace
  // A hint: whole blocks in the log may read as zeros from now on, and give their space back. What stands in the base image stays.
  void discard(std::uint64_t bytes, std::uint64_t offset);
  void flush();  // as the guest's: see FLUSH
  void sync();   // everything acknowledged is durable, marks too

  // In memory and in the page cache: microseconds, durable with the next sync(). The disk should be quiet: a request under way
  // may be on either side.
  void mark(const MarkName& name);      // kExists
  void rollback(const MarkName& name);  // kNotFound. No mark is lost, neither older nor newer ones
  void drop(const MarkName& name);      // kNotFound
  std::vector<MarkName> marks() const;  // oldest first
  JournalStat stat() const;

  // What a thread of its own should do every now and then: folds, compacts, prepares segments. True: there is more to do.
  bool maintain();
  // Folds everything into the base image. True: now the base image alone is the disk, and the journal may be deleted. False: the guest
  // wrote meanwhile. Throws kBusy while there are marks.
  bool fold_all();
  // fold_all(), and there is no journal any more: its folder holds nothing that counts. Only the destructor may follow a true.
  bool finish();

 private:
  struct Piece;

  // recover.cpp
  void begin();
  void recover();
  void replay(const IndexHeader& index);
  std::uint32_t replay_chunk(std::uint64_t position, const ChunkHeader& header, std::span<const std::byte> chunk);
  void apply(const Entry& entry, Where slot);

  // journal.cpp
  void check_range(std::uint64_t bytes, std::uint64_t offset) const;
  void check_alive() const;
  std::size_t append_data(std::span<const std::byte> data, BlockNo first);
  bool write_some(std::span<const std::byte>& data, std::uint64_t& offset);
  std::vector<Piece> locate(std::span<std::byte> out, std::uint64_t offset) const;
  void read_pieces(std::span<const Piece> pieces);
  void read_block(BlockNo block, std::span<std::byte, kBlockBytes> out);
  void read_base(std::span<std::byte> out, std::uint64_t offset);
  bool append_one(Entry entry, Use use);
  void append_control(Entry entry, void (History::*action)(const MarkName&), const MarkName& name, bool wanted);

  // clean.cpp; with clean_ held
  void make_room();
  bool add_segment();
  bool reclaim();
  bool worth_emptying(std::uint64_t segment) const;
  void empty(std::uint64_t segment);
  std::vector<std::pair<Where, BlockNo>> fold(const std::vector<std::pair<Where, Slots::Slot>>& versions);
  void move(Where from, BlockNo block);
  void fold_zeros();
  void wait_for_readers();
  void write_index();
  void store_index(std::span<const std::byte> file);
  void reuse(std::uint64_t number);

  const std::unique_ptr<Folder> folder_;
  const std::unique_ptr<BaseImage> base_;
  const JournalOptions options_;
  std::uint64_t bytes_ = 0;
  std::uint32_t segment_blocks_ = 0;
  std::uint64_t id_ = 0;
  std::uint64_t incarnation_ = 0;

  std::mutex clean_;
  std::mutex flush_;
  mutable std::mutex state_;
  // Reads of the base image under way: a new one counts on `reader_side_`, the other side is being waited for.
  std::array<std::uint64_t, 2> readers_{};
  unsigned reader_side_ = 0;
  std::condition_variable readers_gone_;
  std::unique_ptr<Log> log_;
  std::unique_ptr<History> history_;
  std::uint64_t synced_ = 0;         // one more than the entries; 0: not even those of the process before
  std::uint32_t since_flush_ = 0;    // guest's writes
  std::uint32_t flush_every_ = ~0u;  // how many of them the last flush was for
  std::uint64_t indexed_ = 0;        // entries that the index holds
  std::uint64_t folded_ = 0;
  std::uint64_t moved_ = 0;
  std::atomic<bool> failed_ = false;  // a sync failed: what the kernel did with the data is unknown
};

}  // namespace mhv::disk
