// For tests: a guest's memory that is tracked, and a model of it: what each page holds, what page tables say of it, and what was
// returned last.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/fd.h"
#include "guest/missing.h"
#include "guest/ram.h"
#include "guest/tracker_modes_test.h"

namespace mhv::guest::testing {

// What page tables say, as in the table of tracker.h.
enum class Entry { kNone, kMarker, kProtected, kWritten };
enum class Maybe { kNo, kYes, kUnknown };

struct ModelPage {
  std::uint64_t now = 0;   // content: the number of its last write, or of the checkpoint's page; 0: zeros
  std::uint64_t seen = 0;  // that when it was returned last
  Entry entry = Entry::kNone;
  Maybe looked_mapped = Maybe::kNo;  // at the last collect(), or returned as written since
  bool in_file = false;              // of shared memory
  bool to_fill = false;              // missing, with content in the checkpoint
  bool touched = false;              // since forget_touched()
};

class ModelGuest {
 public:
  ModelGuest(unsigned seed, Mode mode);
  ~ModelGuest();
  ModelGuest(const ModelGuest&) = delete;
  ModelGuest& operator=(const ModelGuest&) = delete;

  const Ram& ram() const { return *ram_; }
  std::vector<ModelPage>& pages() { return pages_; }
  std::uint32_t count() const { return static_cast<std::uint32_t>(pages_.size()); }
  // Its regions, block by block.
  const std::vector<PageRange>& regions() const { return regions_; }
  const Mode& mode() const { return mode_; }
  bool gives_back() const { return gives_back_; }

  bool unmapped(const ModelPage& page) const;
  bool written(const ModelPage& page) const;

  // Random numbers for whoever drives it, too: one seed is one history.
  std::uint32_t below(std::uint32_t end) { return static_cast<std::uint32_t>(random_() % end); }
  bool chance(unsigned part, unsigned of) { return below(of) < part; }

  void write_all() { write({{0}, count()}); }
  // Writes, reads, gives back, or has something filled.
  void act();
  void forget_touched();

  // Two of three pages that are not there have content in a checkpoint, and come when they are accessed.
  void begin_fill(const Fd& uffd);
  bool filling() const { return missing_.has_value(); }
  void end_fill();

  // Takes what page tables say: what was touched while the tracker worked may be protected or not.
  void take_entries(bool only_touched);
  void check_entries();
  void check_content();

  void note(std::string line);
  void fail(std::uint32_t page, const std::string& what);
  bool failed() const { return failed_; }
  std::string trace() const;

 private:
  bool shared() const { return mode_.shared(); }
  bool missing(const ModelPage& page) const;
  char* at(std::uint32_t page) const { return reinterpret_cast<char*>(ram_->host_of({page}).value); }
  volatile std::uint64_t& word(std::uint32_t page) const { return *reinterpret_cast<volatile std::uint64_t*>(at(page)); }
  Ram make_ram() const;
  PageRange somewhere();
  PageRange somewhere_else();
  template <typename Each>
  void each(PageRange range, const Each& each_page);
  void write(PageRange range, std::uint32_t stride = 1);
  void read(PageRange range);
  void punch(PageRange range);
  void give_back(PageRange range) const;
  void lose_entries(PageRange range);
  void fill(std::uint32_t number, ModelPage& page);
  std::vector<Entry> entries() const;

  std::mt19937 random_;
  const Mode mode_;
  const bool gives_back_;
  Fd file_;
  char* memory_ = nullptr;
  std::unique_ptr<Ram> ram_;
  std::optional<MissingPages> missing_;
  std::vector<ModelPage> pages_;
  std::vector<PageRange> regions_;
  std::uint32_t hot_ = 0;  // the region that most is done to
  std::deque<PageRange> recent_;
  std::uint64_t writes_ = 0;
  std::deque<std::string> log_;
  bool failed_ = false;
};

}  // namespace mhv::guest::testing
