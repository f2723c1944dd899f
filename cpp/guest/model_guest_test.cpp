#include "guest/model_guest_test.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/error.h"

namespace mhv::guest::testing {
namespace {

constexpr std::uint32_t kRegionPages = 512;  // as in tracker.cpp
// Blocks that do not end where a region does; more pages than one PAGEMAP_SCAN reports one by one.
constexpr std::array<std::uint32_t, 3> kBlocks{3 * kRegionPages + 100, 1, 9 * kRegionPages + 5};
constexpr std::uint32_t kPages = std::accumulate(kBlocks.begin(), kBlocks.end(), 0u);
constexpr std::uint32_t kGapPages = 3;
constexpr std::size_t kBytes = (kPages + kBlocks.size() * kGapPages) * kPageSize;
constexpr std::uint64_t kCheckpointContent = std::uint64_t{1} << 40;
constexpr std::size_t kLogLines = 60;

// The LIMIT of tracker.h: whoever uses the tracker looks at this page by itself.
void forgive(ModelPage& page) { page.seen = page.now; }

Entry entry_of(std::uint64_t pagemap_word) {
  const bool present = (pagemap_word >> 63 & 1) != 0, wp = (pagemap_word >> 57 & 1) != 0;
  if (present) return wp ? Entry::kProtected : Entry::kWritten;
  return wp ? Entry::kMarker : Entry::kNone;
}

}  // namespace

ModelGuest::ModelGuest(unsigned seed, Mode mode) : random_(seed), mode_(mode), gives_back_(chance(3, 4)), pages_(kPages) {
  file_ = Fd::memory("tracked");
  if (::ftruncate(file_.get(), kBytes) != 0) throw_errno("ftruncate");
  const int flags = shared() ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
  void* const memory = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, flags, shared() ? file_.get() : -1, 0);
  if (memory == MAP_FAILED) throw_errno("mmap");
  memory_ = static_cast<char*>(memory);
  ram_ = std::make_unique<Ram>(make_ram());
  for (const RamBlock& block : ram_->blocks()) {
    const auto block_pages = static_cast<std::uint32_t>(block.bytes >> kPageShift);
    for (std::uint32_t i = 0; i < block_pages; i += kRegionPages)
      regions_.push_back({{block.first.value + i}, std::min(kRegionPages, block_pages - i)});
  }
}

ModelGuest::~ModelGuest() { ::munmap(memory_, kBytes); }

Ram ModelGuest::make_ram() const {
  std::vector<Fd> fds;
  fds.push_back(shared() ? file_.duplicate() : Fd::open("/proc/self/mem", O_RDWR));
  std::vector<RamBlock> blocks;
  std::uint64_t offset = 0;
  for (const std::uint32_t block_pages : kBlocks) {
    RamBlock block;
    block.name = "block" + std::to_string(blocks.size());
    block.host = {reinterpret_cast<std::uintptr_t>(memory_) + offset};
    block.bytes = std::uint64_t{block_pages} * kPageSize;
    block.shared = shared();
    block.fd_offset = offset;
    block.fd = fds[0].get();
    blocks.push_back(std::move(block));
    offset += std::uint64_t{block_pages + kGapPages} * kPageSize;
  }
  return Ram(std::move(blocks), std::move(fds));
}

bool ModelGuest::unmapped(const ModelPage& page) const { return page.entry == Entry::kNone || (shared() && page.entry == Entry::kMarker); }

bool ModelGuest::written(const ModelPage& page) const {
  return page.entry == Entry::kWritten || (shared() && mode_.host_swaps && page.entry == Entry::kNone);
}

bool ModelGuest::missing(const ModelPage& page) const {
  return shared() ? !page.in_file : page.entry == Entry::kNone || page.entry == Entry::kMarker;
}

template <typename Each>
void ModelGuest::each(PageRange range, const Each& each_page) {
  for (std::uint32_t i = range.first.value; i < range.first.value + range.count; ++i) {
    pages_[i].touched = true;
    each_page(i, pages_[i]);
  }
}

void ModelGuest::write(PageRange range, std::uint32_t stride) {
  each(range, [&](std::uint32_t i, ModelPage& page) {
    if ((i - range.first.value) % stride != 0) return;
    fill(i, page);
    word(i) = page.now = ++writes_;
    page.entry = Entry::kWritten;
    page.in_file = true;
  });
}

void ModelGuest::read(PageRange range) {
  each(range, [&](std::uint32_t i, ModelPage& page) {
    fill(i, page);
    [[maybe_unused]] const std::uint64_t content = word(i);
    page.in_file = true;
    if (page.entry == Entry::kNone) page.entry = Entry::kWritten;
    if (page.entry != Entry::kMarker) return;
    page.entry = Entry::kProtected;
    if (shared() && page.now == 0) forgive(page);  // punched, and then only read
  });
}

// As a balloon gives memory back.
void ModelGuest::punch(PageRange range) {
  give_back(range);
  each(range, [&](std::uint32_t, ModelPage& page) {
    const bool was_unmapped = unmapped(page), was_written = page.entry == Entry::kWritten;
    page.entry = shared() && (page.entry == Entry::kProtected || page.entry == Entry::kMarker) ? Entry::kMarker : Entry::kNone;
    page.in_file = false;
    if (page.to_fill) return;  // keeps its content
    page.now = 0;
    // Mapped since the last look alone, or, of shared memory, not mapped now.
    const bool unseen = page.looked_mapped == Maybe::kNo || (page.looked_mapped == Maybe::kUnknown && was_written);
    if (unseen || (shared() && was_unmapped)) forgive(page);
  });
}

void ModelGuest::give_back(PageRange range) const {
  char* const start = at(range.first.value);
  const std::size_t bytes = std::size_t{range.count} * kPageSize;
  const int result = shared()
                         ? ::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start - memory_, static_cast<off_t>(bytes))
                         : ::madvise(start, bytes, MADV_DONTNEED);
  if (result != 0) throw_errno("cannot give memory back");
}

// As reclaim to swap leaves shared memory: the page stays.
void ModelGuest::lose_entries(PageRange range) {
  if (::madvise(at(range.first.value), std::size_t{range.count} * kPageSize, MADV_DONTNEED) != 0) throw_errno("madvise");
  each(range, [](std::uint32_t, ModelPage& page) {
    if (page.entry == Entry::kWritten) page.entry = Entry::kNone;
    if (page.entry == Entry::kProtected) page.entry = Entry::kMarker;
  });
}

// A range of one block.
PageRange ModelGuest::somewhere() {
  if (!recent_.empty() && chance(1, 3)) return recent_[below(static_cast<std::uint32_t>(recent_.size()))];
  recent_.push_front(somewhere_else());
  if (recent_.size() > 4) recent_.pop_back();
  return recent_.front();
}

PageRange ModelGuest::somewhere_else() {
  const auto any = [&] { return below(static_cast<std::uint32_t>(regions_.size())); };
  if (chance(1, 20)) hot_ = any();
  const PageRange region = regions_[chance(4, 5) ? hot_ : any()];
  std::uint32_t first = region.first.value + below(region.count);
  if (chance(1, 3)) first = region.first.value - std::min(below(20), region.first.value);  // across the border
  const RamBlock& block = ram_->block_of({first});
  const auto rest = static_cast<std::uint32_t>((block.bytes >> kPageShift) - (first - block.first.value));
  const std::uint32_t wanted = chance(1, 2) ? 1 : chance(1, 20) ? 1 + below(1200) : 1 + below(40);
  return {{first}, std::min(wanted, rest)};
}

void ModelGuest::act() {
  const PageRange range = somewhere();
  const auto say = [&](const char* what) {
    note("  " + std::string(what) + " " + std::to_string(range.first.value) + "+" + std::to_string(range.count));
  };
  const std::uint32_t choice = below(12);
  if (choice == 0) {
    say("read");
    read(range);
  } else if (choice <= 2 && gives_back_) {
    say("punch");
    punch(range);
  } else if (choice == 3 && shared() && mode_.host_swaps) {
    say("lose the entries of");
    lose_entries(range);
  } else if (choice == 4 && filling()) {
    say("fill");
    each(range, [&](std::uint32_t i, ModelPage& page) { fill(i, page); });
  } else if (choice == 5 && chance(1, 20)) {
    note("  write every other page");
    write({ram_->blocks().back().first, kBlocks.back()}, 2);
  } else {
    say("write");
    write(range);
  }
}

void ModelGuest::forget_touched() {
  for (ModelPage& page : pages_) page.touched = false;
}

void ModelGuest::begin_fill(const Fd& uffd) {
  for (std::uint32_t i = 0; i < kPages; ++i) {
    ModelPage& page = pages_[i];
    page.to_fill = i % 3 != 0 && missing(page);
    if (page.to_fill) page.now = page.seen = kCheckpointContent + i;
  }
  missing_.emplace(uffd.duplicate(), Fd::open("/proc/self/pagemap", O_RDONLY), ram_->duplicate());
  missing_->arm();
}

// Before it is accessed, as by a Filler.
void ModelGuest::fill(std::uint32_t number, ModelPage& page) {
  if (!filling() || !missing(page)) return;
  std::array<std::byte, kPageSize> content{};
  std::memcpy(content.data(), &page.now, sizeof page.now);
  const bool clean = page.now == page.seen;
  if (missing_->fill({number}, content, clean) != 1) fail(number, "is not missing");
  page.entry = clean ? Entry::kProtected : Entry::kWritten;
  page.to_fill = false;
  page.in_file = true;
}

void ModelGuest::end_fill() {
  note("end of the fill");
  for (std::uint32_t i = 0; i < kPages; ++i) {
    if (pages_[i].to_fill) fill(i, pages_[i]);
  }
  missing_->disarm_private();
  missing_->disarm_shared();
  missing_.reset();
  for (ModelPage& page : pages_) {
    if (shared()) break;  // its written bits stay
    if (page.entry == Entry::kProtected) page.entry = Entry::kWritten;
    if (page.entry == Entry::kMarker) page.entry = Entry::kNone;
  }
  check_entries();
}

std::vector<Entry> ModelGuest::entries() const {
  std::vector<Entry> out;
  const Fd file = Fd::open("/proc/self/pagemap", O_RDONLY);
  for (const RamBlock& block : ram_->blocks()) {
    std::vector<std::uint64_t> words(block.bytes >> kPageShift);
    pread_all(file.get(), std::as_writable_bytes(std::span(words)), (block.host.value >> kPageShift) * sizeof(words[0]), "pagemap");
    std::transform(words.begin(), words.end(), std::back_inserter(out), entry_of);
  }
  return out;
}

void ModelGuest::take_entries(bool only_touched) {
  if (only_touched && std::none_of(pages_.begin(), pages_.end(), [](const ModelPage& page) { return page.touched; })) return;
  const std::vector<Entry> all = entries();
  for (std::uint32_t i = 0; i < kPages; ++i) {
    if (pages_[i].touched || !only_touched) pages_[i].entry = all[i];
  }
}

void ModelGuest::check_entries() {
  const std::vector<Entry> all = entries();
  for (std::uint32_t i = 0; i < kPages; ++i) {
    if (pages_[i].entry != all[i]) return fail(i, "has another entry than the model: " + std::to_string(static_cast<int>(all[i])));
  }
}

void ModelGuest::check_content() {
  for (std::uint32_t i = 0; i < kPages; ++i) {
    if (word(i) != pages_[i].now) return fail(i, "holds " + std::to_string(word(i)));
  }
}

void ModelGuest::note(std::string line) {
  log_.push_back(std::move(line));
  if (log_.size() > kLogLines) log_.pop_front();
}

void ModelGuest::fail(std::uint32_t number, const std::string& what) {
  if (std::exchange(failed_, true)) return;
  const ModelPage& page = pages_[number];
  ADD_FAILURE() << "page " << number << " " << what << "; content " << page.now << ", returned " << page.seen << ", entry "
                << static_cast<int>(page.entry) << ", mapped " << static_cast<int>(page.looked_mapped);
}

std::string ModelGuest::trace() const {
  std::string out;
  for (const std::string& line : log_) out += "\n  " + line;
  return out;
}

}  // namespace mhv::guest::testing
