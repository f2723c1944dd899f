#include "integrity/task_slabs.h"

#include <algorithm>

#include "base/error.h"
#include "base/units.h"

namespace mhv::integrity {
namespace {

constexpr std::uint64_t kFramesAtOnce = 512, kFramesACheck = 4096;
constexpr std::uint64_t kStructPageMin = 32, kStructPageMax = 256;
constexpr std::uint32_t kObjectBytesMax = 64 << 10, kObjectsInSlabMax = 64;
constexpr std::size_t kObjectsMax = 1u << 13, kSuspectsMax = 1u << 10;
constexpr std::uint32_t kTaskDead = 0x80, kTaskNew = 0x800;  // since Linux 4.14

[[noreturn]] void refuse(const Kernel& kernel, const char* what) {
  throw Error(Code::kUnsupported, std::string("the guest's kernel ") + what + ": " + kernel.banner(),
              "its processes are looked for on its lists; Debian's kernels 5.10 to 6.12 give more");
}

std::uint64_t word_in(std::span<const std::byte> bytes, std::size_t offset) {
  std::uint64_t word;
  std::memcpy(&word, bytes.data() + offset, sizeof word);
  return word;
}

// Since Linux 5.17 a slab's struct page is called struct slab.
std::uint32_t offset_in_slab(const Kernel& kernel, const char* member) {
  return kernel.offset(kernel.types().find("slab") ? "slab" : "page", member);
}

}  // namespace

// A cache that serves others too is none of processes alone; objects below a page may be watched ones (KFENCE), which are not linked.
TaskSlabs::TaskSlabs(const Kernel& kernel)
    : cache_at_(offset_in_slab(kernel, "slab_cache")),
      counters_at_(offset_in_slab(kernel, "counters")),
      head_at_(kernel.offset("page", "compound_head")),
      state_(kernel.offset("task_struct", kernel.types().field("task_struct", "__state") ? "__state" : "state")),
      handlers_(kernel.offset("task_struct", "sighand")) {
  Reader reader(kernel);
  pages_ = {reader.word(kernel.symbol("vmemmap_base"))};
  direct_ = {reader.word(kernel.symbol("page_offset_base"))};
  cache_ = {reader.word(kernel.symbol("task_struct_cachep"))};
  page_bytes_ = kernel.types().size_of(kernel.types().find("page").value_or(0));
  if (pages_.value < kKernelSpace || direct_.value < kKernelSpace || cache_.value < kKernelSpace || page_bytes_ < kStructPageMin ||
      page_bytes_ > kStructPageMax || std::max({cache_at_, counters_at_, head_at_}) + sizeof(std::uint64_t) > page_bytes_) {
    refuse(kernel, "does not say where its struct pages are");
  }
  const auto get = [&](const char* member) { return reader.get<std::uint32_t>(cache_ + kernel.offset("kmem_cache", member)).value_or(0); };
  bytes_ = get("size");
  link_at_ = get("offset");
  if (kernel.types().field("kmem_cache", "red_left_pad")) padding_ = get("red_left_pad");
  if (kernel.types().field("kmem_cache", "random")) random_ = reader.word(cache_ + kernel.offset("kmem_cache", "random"));
  if (bytes_ <= kPageSize || bytes_ > kObjectBytesMax || link_at_ > bytes_ - sizeof(std::uint64_t) || padding_ >= bytes_ ||
      get("refcount") != 1) {
    refuse(kernel, "has no memory that is for processes only");
  }
  if (reader.get<std::uint32_t>(kernel.symbol("nr_cpu_ids")).value_or(0) > kProcessorsMax) refuse(kernel, "has too many processors");
}

// The host knows what is RAM; the guest is not asked.
void TaskSlabs::advance(Reader& reader) {
  if (!looked_at_) return;
  looked_at_ = false;
  suspects_.merge(fresh_);
  fresh_.clear();
  part_.clear();
  std::uint64_t left = kFramesACheck;
  for (const PhysRange& range : reader.kernel().space().memory().ranges()) {
    const std::uint64_t end = (range.start.value + range.bytes) / kPageSize;
    for (next_ = std::max(next_, range.start.value / kPageSize); next_ < end;) {
      if (left == 0) return;
      const std::uint64_t frames = std::min({left, end - next_, kFramesAtOnce - next_ % kFramesAtOnce});
      collect(reader, next_, frames);
      next_ += frames;
      left -= frames;
    }
  }
  next_ = 0;
}

// Where nothing is mapped, the kernel has no pages. A tail page is part of another's slab.
void TaskSlabs::collect(Reader& reader, std::uint64_t frame, std::size_t frames) {
  std::vector<std::byte> pages(frames * page_bytes_);
  const GuestVirt first = pages_ + frame * page_bytes_;
  if (!reader.read(first, pages)) return;
  for (std::size_t i = 0; i < frames; ++i) {
    const auto page = std::span(pages).subspan(i * page_bytes_, page_bytes_);
    if (word_in(page, cache_at_) != cache_.value || (word_in(page, head_at_) & 1) != 0) continue;
    // Of struct { inuse:16, objects:15, frozen:1 }.
    const auto objects = std::min(static_cast<std::uint32_t>(word_in(page, counters_at_) >> 16 & 0x7fff), kObjectsInSlabMax);
    const GuestVirt slab = direct_ + (frame + i) * kPageSize;
    for (std::uint32_t n = 0; n < objects && part_.size() < kObjectsMax; ++n) {
      part_.push_back({slab + padding_ + n * bytes_, slab, objects, first + i * page_bytes_});
    }
  }
}

bool TaskSlabs::is_free(Reader& reader, const Object& object) const {
  const GuestVirt at = object.at + link_at_;
  std::uint64_t link = reader.word(at);
  if (random_) link ^= *random_ ^ __builtin_bswap64(at.value);
  const std::uint64_t place = link - object.slab.value - padding_;
  return link == 0 || (place % bytes_ == 0 && place / bytes_ < object.in_slab);
}

// nullopt: it is not hidden.
std::optional<Task> TaskSlabs::examine(Reader& reader, Known& known, const Object& object) const {
  if (known.has(object.at) || is_free(reader, object)) return std::nullopt;
  // The slab may have gone meanwhile.
  if (reader.word(object.page + cache_at_) != cache_.value || (reader.word(object.page + head_at_) & 1) != 0) return std::nullopt;
  const auto task = known.lists.task(reader, object.at, true);
  const auto state = reader.get<std::uint32_t>(object.at + state_);
  if (!task || !state || (*state & (kTaskNew | kTaskDead)) != 0 || reader.word(object.at + handlers_) == 0) return std::nullopt;
  if (task->pid == 0) {
    if (!known.idle) known.idle = known.lists.idle(reader);
    if (known.idle->contains(object.at)) return std::nullopt;
  }
  if (*state == 0) {
    if (!known.numbers) {
      known.numbers.emplace();
      for (const Task& one : known.listed) known.numbers->insert(one.pid);
    }
    if (known.numbers->contains(task->pid)) return std::nullopt;
  }
  return task;
}

std::vector<Task> TaskSlabs::hidden(Reader& reader, const TaskLists& lists, std::span<const Task> listed,
                                    const std::function<bool(GuestVirt)>& is_known) {
  looked_at_ = true;
  Known known{lists, listed, is_known};
  std::vector<Task> out;
  std::erase_if(suspects_, [&](const auto& one) {
    const auto task = examine(reader, known, one.second.object);
    if (!task || task->pid != one.second.pid) return true;
    out.push_back(*task);
    return false;
  });
  for (const Object& object : part_) {
    if (suspects_.contains(object.at) || fresh_.size() >= kSuspectsMax) continue;
    if (const auto task = examine(reader, known, object)) fresh_.insert_or_assign(object.at, Suspect{object, task->pid});
  }
  return out;
}

}  // namespace mhv::integrity
