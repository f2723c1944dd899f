#include "replay/recorded_guest.h"

#include <unistd.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "guest/vcpus.h"

namespace mhv::replay {
namespace {

constexpr std::size_t kPagesAtOnce = 4096;
constexpr std::uint64_t kGib = 1ull << 30, kAboveDevices = 4 * kGib;

// QEMU's own choice where nobody names another (max-ram-below-4g).
std::uint64_t below_devices(const std::string& machine, std::uint64_t bytes) {
  if (machine.starts_with("pc-i440fx")) return bytes >= 7 * kGib / 2 ? 3 * kGib : bytes;
  if (machine.starts_with("pc-q35")) return bytes >= 11 * kGib / 4 ? 2 * kGib : bytes;
  throw Error(Code::kUnsupported, "how machine type \"" + machine + "\" arranges its memory is not known",
              "record a guest of type pc or q35");
}

bool is_ram(const store::BlockInfo& block) { return block.name == "pc.ram" || block.name.starts_with("ram-node"); }

}  // namespace

std::vector<RamPart> arrange_ram(const std::string& machine, std::uint64_t bytes) {
  const std::uint64_t below = below_devices(machine, bytes);
  std::vector<RamPart> out{{0, below}};
  if (below < bytes) out.push_back({kAboveDevices, bytes - below});
  return out;
}

RecordedGuest::RecordedGuest(const std::string& store)
    : store_(store::Store::open(store)), checkpoints_(store_->list()), file_(Fd::memory("recorded guest")) {
  if (checkpoints_.empty()) throw Error(Code::kInvalid, "the recording has no checkpoint", "record a guest that has some: doc/layers.rst");
  const auto& blocks = checkpoints_.front().blocks;
  const auto ram = std::ranges::find_if(blocks, is_ram);
  if (ram == blocks.end()) throw Error(Code::kUnsupported, "the recording's memory has no block that is RAM of a PC");
  const auto add = [](std::uint64_t sum, const store::BlockInfo& block) { return sum + block.bytes; };
  first_ = {static_cast<std::uint32_t>(std::accumulate(blocks.begin(), ram, std::uint64_t{0}, add) >> kPageShift)};
  bytes_ = std::accumulate(ram, std::find_if_not(ram, blocks.end(), is_ram), std::uint64_t{0}, add);
  parts_ = arrange_ram(checkpoints_.front().machine, bytes_);
  if (::ftruncate(file_.get(), static_cast<off_t>(bytes_)) != 0) throw_errno("cannot make a memory of that size");
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
    for (std::size_t i = 0; i < some.size(); ++i) {
      const std::uint64_t offset = (std::uint64_t{some[i].page.value} - first_.value) << kPageShift;
      if (some[i].page < first_ || offset >= bytes_) continue;  // of a device
      pwrite_all(file_.get(), std::span(content).subspan(i * kPageSize, kPageSize), offset, "memory");
      add_written(offset);
    }
  }
}

void RecordedGuest::add_written(std::uint64_t offset) {
  std::uint64_t before = 0;
  for (const RamPart& part : parts_) {
    if (offset - before < part.bytes) {
      const std::uint64_t at = part.start + offset - before;
      if (!written_.empty() && written_.back().start + written_.back().bytes == at) {
        written_.back().bytes += kPageSize;
      } else {
        written_.push_back({at, kPageSize});
      }
      ++written_pages_;
      return;
    }
    before += part.bytes;
  }
}

nlohmann::json RecordedGuest::describe(int descriptor) const {
  nlohmann::json out = nlohmann::json::array();
  std::uint64_t offset = 0;
  for (const RamPart& part : parts_) {
    out.push_back({{"start", part.start}, {"bytes", part.bytes}, {"descriptor", descriptor}, {"offset", offset}});
    offset += part.bytes;
  }
  return out;
}

bool RecordedGuest::read(std::uint64_t start, std::span<std::byte> out) const {
  std::uint64_t before = 0;
  for (const RamPart& part : parts_) {
    if (start >= part.start && start - part.start < part.bytes && part.bytes - (start - part.start) >= out.size()) {
      pread_all(file_.get(), out, before + start - part.start, "memory");
      return true;
    }
    before += part.bytes;
  }
  return false;
}

}  // namespace mhv::replay
