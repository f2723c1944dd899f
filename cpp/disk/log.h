// The log: segments, and the place where the next entry goes. Knows nothing of what entries mean.
//
// Segments have consecutive numbers. Those up to the current one hold entries; those after it are ready: allocated, their names
// durable, with nothing in them that counts (format.h). The last ready one is kept for entries that give space back.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "disk/files.h"
#include "disk/format.h"

namespace mhv::disk {

// What an entry may use of the last space.
enum class Use { kGuest, kOwn };

// One thread at a time, except that a Pin may be read by any.
class Log {
 public:
  struct Segment {
    std::uint64_t number = 0;
    std::unique_ptr<File> file;
    bool unsynced = false;
  };
  using Pin = std::shared_ptr<Segment>;  // as long as somebody has it, the segment is not used again

  // Where a log goes on: at the chunk `position`, with the entries found in the chunk before it.
  struct End {
    std::uint64_t position = 0;
    std::uint32_t previous_entries = 0;
  };

  Log(std::uint64_t journal, std::uint32_t segment_blocks) : journal_(journal), segment_blocks_(segment_blocks) {}

  void add(std::uint64_t number, std::unique_ptr<File> file);
  void start(const End& end, std::uint64_t incarnation);

  // Appends the first of these entries, of one kind, as many as the chunk takes, and returns how many; `content` has a block for
  // each when they have any. `first` is the slot of the first. 0: there is no segment for it. Throws: nothing was appended.
  std::uint32_t append(std::span<Entry> entries, std::span<const std::byte> content, Use use, Where& first);
  // The next entry begins a new chunk, whose place is returned.
  End close_chunk();

  Pin pin(Where slot) const { return segments_.at(slot.value / segment_blocks_); }
  // The transfer of what the last append() wrote may begin: a sync is expected.
  void begin_sync();
  // Segments written since the last call.
  std::vector<Pin> take_unsynced();

  const std::map<std::uint64_t, Pin>& segments() const { return segments_; }
  Pin remove(std::uint64_t number);
  std::uint64_t current() const { return chunk_ / segment_blocks_; }
  std::uint64_t ready() const;
  std::uint64_t next_number() const;
  std::uint64_t entries() const { return entries_; }  // appended since start()

 private:
  bool next_chunk(Use use);
  std::uint64_t following(std::uint64_t chunk) const { return chunk + kChunkBlocks; }

  std::uint64_t journal_;
  std::uint32_t segment_blocks_;
  std::map<std::uint64_t, Pin> segments_;
  Pin segment_;  // of chunk_; null until it is there
  std::uint64_t chunk_ = 0;
  ChunkHeader header_;
  std::uint32_t used_ = 0;
  bool closed_ = false;
  std::uint32_t appended_ = 0;  // by the last append()
  std::uint64_t entries_ = 0;
};

}  // namespace mhv::disk
