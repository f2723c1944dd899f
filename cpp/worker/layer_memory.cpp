#include "worker/layer_memory.h"

#include <algorithm>
#include <tuple>

namespace mhv::worker {
namespace {

constexpr std::uint32_t kRunPages = 1u << 20;

}  // namespace

LayerMemory::LayerMemory(const guest::Ram& ram, const std::string& tree)
    : ram_(ram.duplicate()), parts_(guest::parse_memory_tree(tree, ram.blocks())), by_page_(parts_) {
  std::ranges::sort(by_page_, {}, [](const guest::PhysicalPart& part) { return std::tie(part.block, part.offset); });
  for (const guest::PhysicalPart& part : by_page_) {
    const auto number = static_cast<std::uint32_t>(part.block);
    if (ram_.blocks()[part.block].shared && (shared_.empty() || shared_.back() != number)) shared_.push_back(number);
  }
}

const guest::PhysicalPart* LayerMemory::find(std::uint64_t at) const {
  const auto after = std::ranges::upper_bound(parts_, at, {}, &guest::PhysicalPart::start);
  if (after == parts_.begin() || at - std::prev(after)->start >= std::prev(after)->bytes) return nullptr;
  return &*std::prev(after);
}

bool LayerMemory::read(std::uint64_t start, std::span<std::byte> out) const {
  while (!out.empty()) {
    const guest::PhysicalPart* const part = find(start);
    if (part == nullptr) return false;
    const std::uint64_t at = start - part->start;
    const std::size_t bytes = std::min<std::uint64_t>(out.size(), part->bytes - at);
    ram_.read(ram_.blocks()[part->block], part->offset + at, out.first(bytes));
    out = out.subspan(bytes);
    start += bytes;
  }
  return true;
}

nlohmann::json LayerMemory::describe(int first_descriptor) const {
  nlohmann::json out = nlohmann::json::array();
  for (const guest::PhysicalPart& part : parts_) {
    const guest::RamBlock& block = ram_.blocks()[part.block];
    const auto at = std::ranges::find(shared_, part.block);
    const int descriptor = at == shared_.end() ? -1 : first_descriptor + static_cast<int>(at - shared_.begin());
    out.push_back({{"start", part.start}, {"bytes", part.bytes}, {"descriptor", descriptor}, {"offset", block.fd_offset + part.offset}});
  }
  return out;
}

bool LayerMemory::physical_ranges(const guest::PageSet& pages, std::size_t max, std::vector<ring::PageRange>& out) const {
  auto part = by_page_.begin();
  const auto first_page = [&](const guest::PhysicalPart& of) {
    return std::uint64_t{ram_.blocks()[of.block].first.value} + (of.offset >> kPageShift);
  };
  out.clear();
  pages.for_each_range(kRunPages, [&](PageRange run) {
    std::uint64_t page = run.first.value;
    const std::uint64_t end = page + run.count;
    while (page < end && out.size() <= max) {
      while (part != by_page_.end() && first_page(*part) + (part->bytes >> kPageShift) <= page) ++part;
      if (part == by_page_.end()) return;
      const std::uint64_t begin = first_page(*part);
      page = std::max(page, begin);
      const std::uint64_t until = std::min(end, begin + (part->bytes >> kPageShift));
      if (page >= until) return;
      out.push_back({part->start + ((page - begin) << kPageShift), (until - page) << kPageShift});
      page = until;
    }
  });
  if (out.size() <= max) return true;
  out.clear();
  return false;
}

}  // namespace mhv::worker
