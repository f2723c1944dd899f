#include "replay/recorded_guest.h"

#include <unistd.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "guest/vcpus.h"

namespace mhv::replay {
namespace {

constexpr std::size_t kPagesAtOnce = 4096;

}  // namespace

RecordedGuest::RecordedGuest(const std::string& store)
    : store_(store::Store::open(store)), checkpoints_(store_->list()), file_(Fd::memory("recorded guest")) {
  if (checkpoints_.empty()) throw Error(Code::kInvalid, "the recording has no checkpoint", "record a guest that has some: doc/layers.rst");
  std::vector<guest::StreamBlock> blocks;
  for (const store::BlockInfo& block : checkpoints_.front().blocks) blocks.push_back({block.name, block.bytes});
  parts_ = guest::pc_ram(checkpoints_.front().machine, blocks);
  const auto add = [](std::uint64_t sum, const guest::RamPart& part) { return sum + part.bytes; };
  const std::uint64_t bytes = std::accumulate(parts_.begin(), parts_.end(), std::uint64_t{0}, add);
  if (::ftruncate(file_.get(), static_cast<off_t>(bytes)) != 0) throw_errno("cannot make a memory of that size");
}

bool RecordedGuest::next() {
  const std::size_t before = at_++;
  if (at_ == checkpoints_.size()) return false;
  const std::string& id = checkpoints_[at_].id;
  if (checkpoints_[at_].blocks != checkpoints_.front().blocks) {
    throw Error(Code::kUnsupported, "the guest's memory is another one from checkpoint " + id + " on", "remove the checkpoints before it");
  }
  written_.clear();
  written_pages_ = 0;
  if (before == SIZE_MAX) {
    const store::PageTable table = store_->resolve(id);
    std::vector<store::PageEntry> all;
    for (std::uint32_t page = 0; page < table.size(); ++page) {
      if (!table[page].is_zero_page()) all.push_back({{page}, table[page]});
    }
    load(all);
  } else {
    load(store_->difference(checkpoints_[before].id, id));
  }
  vcpus_ = guest::parse_vcpus(store_->device_state(id));
  return true;
}

void RecordedGuest::load(const std::vector<store::PageEntry>& pages) {
  std::vector<std::byte> content(kPagesAtOnce * kPageSize);
  for (std::size_t done = 0; done < pages.size(); done += kPagesAtOnce) {
    const auto some = std::span(pages).subspan(done, std::min(kPagesAtOnce, pages.size() - done));
    std::vector<store::PageRead> reads;
    for (std::size_t i = 0; i < some.size(); ++i) reads.push_back({some[i].key, content.data() + i * kPageSize});
    store_->read_many(reads);
    for (std::size_t i = 0; i < some.size(); ++i)
      load_page(some[i].page, std::span<const std::byte, kPageSize>(content.data() + i * kPageSize, kPageSize));
  }
}

// A device's page is left out.
void RecordedGuest::load_page(PageNo page, std::span<const std::byte, kPageSize> content) {
  std::uint64_t before = 0;
  for (const guest::RamPart& part : parts_) {
    const std::uint64_t offset = (std::uint64_t{page.value} - part.first.value) << kPageShift;
    if (page >= part.first && offset < part.bytes) {
      pwrite_all(file_.get(), content, before + offset, "memory");
      return add_written(part.start + offset);
    }
    before += part.bytes;
  }
}

void RecordedGuest::add_written(std::uint64_t start) {
  if (!written_.empty() && written_.back().start + written_.back().bytes == start) {
    written_.back().bytes += kPageSize;
  } else {
    written_.push_back({start, kPageSize});
  }
  ++written_pages_;
}

nlohmann::json RecordedGuest::describe(int descriptor) const {
  nlohmann::json out = nlohmann::json::array();
  std::uint64_t offset = 0;
  for (const guest::RamPart& part : parts_) {
    out.push_back({{"start", part.start}, {"bytes", part.bytes}, {"descriptor", descriptor}, {"offset", offset}});
    offset += part.bytes;
  }
  return out;
}

bool RecordedGuest::read(std::uint64_t start, std::span<std::byte> out) const {
  std::uint64_t before = 0;
  for (const guest::RamPart& part : parts_) {
    if (start >= part.start && start - part.start < part.bytes && part.bytes - (start - part.start) >= out.size()) {
      pread_all(file_.get(), out, before + start - part.start, "memory");
      return true;
    }
    before += part.bytes;
  }
  return false;
}

}  // namespace mhv::replay
