// Giving space back.
//
// A cycle marks every content that a checkpoint sees, and the base of every delta among them, then empties the segments in which
// little is marked: what lives there is appended to the log again, and when that is durable and CATALOG knows, the file is deleted.
// It goes step by step, with commits and deletions between the steps: of a segment, step_bytes are emptied at a time, so that a
// checkpoint that is due does not wait for all of it.
//
// INVARIANT: while a cycle is under way, whatever a new or changed link names is marked when it is published. So a content
// that is not marked when its place is emptied is named by nobody, and leaves the index in that step: nobody names it later.
// A base is marked whenever its delta is.
// After that a writer that meets a delta whose base is gone stores the page again (writer.cpp).
//
// A cycle reads everything that checkpoints say, so it begins only when a quarter as much as there is was let go: its cost for
// each entry that was written is constant.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "store/store.h"

namespace mhv::store {

struct Cycle {
  enum class Phase { kIdle, kMark, kMove };
  Phase phase = Phase::kIdle;
  bool all = false;                             // empty every segment in which something is not marked
  std::uint64_t next_link = 0;                  // sequence of the link to be marked next
  std::vector<PageEntry> entries;               // of the link that is being marked
  std::size_t next_entry = 0;                   // of them
  std::uint32_t before = 0;                     // only segments before this one are emptied
  std::map<std::uint32_t, std::uint64_t> live;  // bytes of what is marked, by segment
  std::vector<std::uint32_t> victims;           // still to be emptied, the last one first
  std::vector<std::byte> bytes;                 // of that one, as far as it was read
  std::uint64_t next_record = 0;                // pages before it were moved
  std::vector<std::uint32_t> emptied;           // CATALOG may still need them
  std::vector<std::uint32_t> moved;             // CATALOG knows: to be deleted
  std::set<std::uint32_t> quick;                // that a root was stored in: to be stored densely, live or not
  std::uint64_t let_go = 0;                     // entries since the last cycle began
  std::uint64_t number_at_end = 0;              // of the last frame when one of all segments ended
};

}  // namespace mhv::store
