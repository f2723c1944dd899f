#include "checkpoint/rollback.h"

#include <emmintrin.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <future>

#include "base/error.h"
#include "checkpoint/disk_points.h"
#include "checkpoint/pause.h"

namespace mhv::checkpoint {
namespace {

constexpr std::uint32_t kFetchedPagesMax = 32768;  // 128 MiB held in memory; the rest is read inside the pause
constexpr std::uint32_t kRunPages = 256;
constexpr std::uint32_t kFetchedAtOncePages = 4096;
constexpr std::size_t kPagesForTwoThreads = 4096;  // below, starting the second one costs more than it saves

// Past the caches: nobody reads the page soon, and what is not in a cache need not be read before it is written over, which is
// half of the time. `from`: nullptr for zeros. Both are aligned to 16 bytes.
void put_page(std::byte* to, const std::byte* from) {
  auto* const out = reinterpret_cast<__m128i*>(to);
  const auto* const in = reinterpret_cast<const __m128i*>(from);
  for (std::size_t i = 0; i < kPageSize / sizeof(__m128i); ++i)
    _mm_stream_si128(out + i, in == nullptr ? _mm_setzero_si128() : _mm_load_si128(in + i));
}

}  // namespace

Rollback::Rollback(guest::LiveGuest& guest, store::Store& store, RunState& state, Lineage& lineage, RestoreMark& mark, Filler* on_demand)
    : guest_(guest),
      store_(store),
      state_(state),
      lineage_(lineage),
      mark_(mark),
      on_demand_(on_demand),
      staging_(guest.ram.pages(), 0),
      mapping_(guest.ram),
      ready_(guest.ram.pages()),
      run_(kRunPages * kPageSize) {}

void Rollback::check_fits(const store::CheckpointInfo& info) const {
  if (info.machine != guest_.machine_name) {
    throw Error(Code::kInvalid,
                fmt::format("checkpoint {} was taken on machine type {}, the guest now has {}", info.id, info.machine, guest_.machine_name),
                "start the guest with the machine type of the checkpoint, or export the checkpoint and use virsh restore");
  }
  if (const auto now = blocks_of(guest_.ram); !std::ranges::equal(memory_blocks(info), std::span(now).first(now.size() - 1))) {
    throw Error(Code::kInvalid, fmt::format("checkpoint {} was taken with another memory layout than the guest has now", info.id),
                "resize the guest back (memory, video and firmware as at the checkpoint), or export the checkpoint and use virsh restore");
  }
}

// With no base: protect everything first, then compare while the guest runs; what it writes meanwhile is gathered later.
// What disks were reading into memory has to be there first, as for a copy (checkpointer.cpp).
void Rollback::compare_everything(guest::PageSet& out, const StageFn& progress) {
  guest_.machine.drain_disks();
  std::vector<std::byte> run(kRunPages * kPageSize);
  for (const guest::RamBlock& block : guest_.ram.blocks()) {
    const auto pages = static_cast<std::uint32_t>(block.bytes / kPageSize);
    for (std::uint32_t at = 0; at < pages; at += kRunPages) {
      const std::uint32_t count = std::min(kRunPages, pages - at);
      const PageNo first{block.first.value + at};
      guest_.ram.read({first, count}, {run.data(), std::size_t{count} * kPageSize});
      for (std::uint32_t i = 0; i < count; ++i) {
        const std::span<const std::byte, kPageSize> page(run.data() + std::size_t{i} * kPageSize, kPageSize);
        if (store_.key_of(page) != target_[first.value + i]) out.add(PageNo{first.value + i});
      }
      progress("comparing memory", first.value + count, guest_.ram.pages());
    }
  }
}

guest::PageSet Rollback::suspects(const std::string& id, const StageFn& progress) {
  if (guest_.gave_memory_back()) lineage_.lose();
  const bool known = lineage_.base().has_value();
  guest::PageSet out = lineage_.begin();
  if (known) {
    for (const store::PageEntry& entry : store_.difference(*lineage_.base(), id)) {
      if (entry.page.value < guest_.ram.pages()) out.add(entry.page);  // behind them is what disks changed
    }
    return out;
  }
  out.clear();
  compare_everything(out, progress);
  return out;
}

void Rollback::fetch(const guest::PageSet& pages) {
  staging_.clear();
  std::vector<store::PageRead> reads;
  const auto read = [&] {
    store_.read_many(reads);
    reads.clear();
  };
  std::uint32_t left = kFetchedPagesMax;
  pages.for_each_range(1, [&](PageRange range) {
    if (left == 0) return;
    --left;
    if (const store::PageKey& key = target_[range.first.value]; !key.is_zero_page())
      reads.push_back({key, staging_.add(range.first).data()});
    if (mapping_.populate(range)) ready_.add(range.first);
    if (reads.size() == kFetchedAtOncePages) read();
  });
  read();
}

// Pages of one block that follow one another, none of them ready_: in one call.
void Rollback::write(PageRange range) {
  for (std::uint32_t i = 0; i < range.count; ++i) {
    const PageNo page{range.first.value + i};
    const std::span<std::byte, kPageSize> out(run_.data() + std::size_t{i} * kPageSize, kPageSize);
    if (target_[page.value].is_zero_page()) {
      std::fill(out.begin(), out.end(), std::byte{0});
    } else if (const std::byte* staged = staging_.find(page); staged != nullptr) {
      std::copy_n(staged, kPageSize, out.begin());
    } else {
      store_.read(target_[page.value], out);
    }
  }
  guest_.ram.write(range.first, {run_.data(), std::size_t{range.count} * kPageSize});
}

// One core does not fill the memory's bandwidth, and the guest's are idle.
void Rollback::put_ready(std::span<const PageNo> pages) {
  const auto put = [this](std::span<const PageNo> some) {
    for (const PageNo page : some) put_page(mapping_.at(page), staging_.find(page));
    _mm_sfence();  // before QEMU is told to go on
  };
  const std::size_t of_other = pages.size() < kPagesForTwoThreads ? 0 : pages.size() / 2;
  std::future<void> other;
  if (of_other != 0) other = std::async(put, pages.first(of_other));
  put(pages.subspan(of_other));
  if (other.valid()) other.get();
}

std::uint64_t Rollback::put_back(const guest::PageSet& pages) {
  std::vector<PageNo> ready;
  ready.reserve(pages.count());
  pages.for_each_range(kRunPages, [&](PageRange range) {
    const std::uint32_t end = range.first.value + range.count;
    for (std::uint32_t at = range.first.value; at < end;) {
      if (ready_.contains(PageNo{at})) {
        ready.push_back(PageNo{at});
        ++at;
        continue;
      }
      const guest::RamBlock& block = guest_.ram.block_of(PageNo{at});
      const std::uint64_t stop = std::min<std::uint64_t>(end, block.first.value + block.bytes / kPageSize);
      std::uint32_t count = 1;
      while (at + count < stop && !ready_.contains(PageNo{at + count})) ++count;
      write({PageNo{at}, count});
      at += count;
    }
  });
  put_ready(ready);
  return pages.count();
}

bool Rollback::differs(PageNo page, std::span<const std::byte, kPageSize> content) const {
  const std::byte* staged = staging_.find(page);
  if (staged != nullptr) return std::memcmp(staged, content.data(), kPageSize) != 0;
  return store_.key_of(content) != target_[page.value];
}

std::uint64_t Rollback::put_back_what_differs(const guest::PageSet& pages) {
  guest::PageSet differing(guest_.ram.pages());
  std::array<std::byte, kPageSize> content;
  pages.for_each_range(1, [&](PageRange range) {
    guest_.ram.read(range, content);
    if (differs(range.first, content)) differing.add(range.first);
  });
  return put_back(differing);
}

guest::PageSet Rollback::before_pause(const std::string& id, const StageFn& progress) {
  if (on_demand_ != nullptr) return guest::PageSet(guest_.ram.pages());
  guest::PageSet pages = suspects(id, progress);
  progress("reading the checkpoint", 0, pages.count());
  fetch(pages);
  return pages;
}

// On demand, the pages that are there are what the fresh QEMU (or a restore that was cut off) has touched: some hundreds.
// Nothing is known of written pages before, and all of them are tracked from the look at them on.
std::uint64_t Rollback::put_back_in_pause(const std::string& id, guest::PageSet& pages) {
  if (on_demand_ == nullptr) {
    pages.add(guest_.written.collect());
    return put_back(pages);
  }
  state_.begin_fill(id);
  lineage_.lose();
  guest_.written.reset();
  pages.add(on_demand_->running() ? on_demand_->present() : on_demand_->begin());
  return put_back_what_differs(pages);
}

RollbackResult Rollback::run(const std::string& id, bool resume, const StageFn& progress) {
  const store::CheckpointInfo info = store_.get(id);
  guest_.check_layout();
  check_fits(info);
  const std::vector<std::byte> device_state = store_.device_state(id);
  if (on_demand_ == nullptr) resolved_ = store_.resolve(id);
  target_ = on_demand_ == nullptr ? resolved_ : on_demand_->target();
  DiskRestore disks(guest_, store_, info, target_);

  guest::PageSet pages = before_pause(id, progress);
  guest_.machine.stage_load(device_state, info.machine, disk_tag(info));
  disks.prepare();
  const bool reverts = !disks.nodes().empty();
  if (reverts) mark_.set(id);
  RollbackResult result;
  {
    Pause pause(guest_.machine, state_);
    const bool runs = pause.stopped() || resume;
    state_.begin_restore(id, runs);
    try {
      result.pages_written = put_back_in_pause(id, pages);
      guest_.machine.load(disk_tag(info), disks.nodes());
      disks.put_back_changes();
      guest::PageSet touched(guest_.ram.pages());
      touched.add(guest_.written.collect());
      result.pages_written += put_back_what_differs(touched);
    } catch (...) {
      lineage_.lose();
      pause.keep_stopped();
      throw;
    }
    lineage_.saved(id);
    state_.set_phase(runs ? RunState::Phase::kStopped : RunState::Phase::kRunning);
    pause.resume();
    result.pause_us = pause.microseconds();
  }
  if (resume && !guest_.machine.running()) guest_.machine.resume();
  state_.set_phase(RunState::Phase::kRunning);
  if (reverts) mark_.clear();
  guest_.machine.clean_up_load();
  return result;
}

}  // namespace mhv::checkpoint
