#include "checkpoint/checkpointer.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <array>
#include <chrono>

#include "base/error.h"
#include "checkpoint/disk_points.h"
#include "checkpoint/pause.h"

namespace mhv::checkpoint {
namespace {

// More than this is written to the store while the guest runs, instead of being held in memory: 64 MiB.
constexpr std::uint32_t kStagedPagesMax = 16384;
// Fewer than this are not worth a copy before the pause.
constexpr std::uint32_t kCopyBeforePauseMin = 32;
// A pause looks at all memory of a guest of 256 MiB; of a larger one only where it was written lately, which may have to be
// done again.
constexpr std::uint32_t kLookedAtPagesMax = 1u << 16;
// Where it had to be done again twice in a row, so many checkpoints look at everything: a guest that sweeps through its memory is
// not stopped twice for each.
constexpr std::uint32_t kMissesMax = 2;
constexpr std::uint32_t kWholeAfterMisses = 8;
constexpr int kStreamRoundsMax = 5;
constexpr std::uint32_t kStreamRunPages = 256;

std::uint64_t microseconds_since(std::chrono::steady_clock::time_point from) {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - from).count());
}

}  // namespace

std::string new_uuid() {
  std::array<std::uint8_t, 16> b{};
  if (::getrandom(b.data(), b.size(), 0) != static_cast<ssize_t>(b.size())) throw_errno("cannot get random bytes");
  b[6] = static_cast<std::uint8_t>((b[6] & 0x0f) | 0x40);  // RFC 9562, version 4
  b[8] = static_cast<std::uint8_t>((b[8] & 0x3f) | 0x80);
  return fmt::format("{:02x}{:02x}{:02x}{:02x}-{:02x}{:02x}-{:02x}{:02x}-{:02x}{:02x}-{:02x}", b[0], b[1], b[2], b[3], b[4], b[5], b[6],
                     b[7], b[8], b[9], fmt::join(b.begin() + 10, b.end(), ""));
}

Checkpointer::Checkpointer(guest::LiveGuest& guest, store::Store& store, RunState& state, Lineage& lineage, DiskPoints& disk_points,
                           Background& background)
    : guest_(guest),
      store_(store),
      state_(state),
      lineage_(lineage),
      disk_points_(disk_points),
      background_(background),
      staging_(guest.ram.pages(), 2048) {}

void Checkpointer::stream(const guest::PageSet& pages, store::Writer& writer, const StageFn& progress) {
  std::vector<std::byte> run(kStreamRunPages * kPageSize);
  const std::uint64_t total = pages.count();
  std::uint64_t done = 0;
  pages.for_each_range(kStreamRunPages, [&](PageRange range) {
    while (range.count > 0) {
      const guest::RamBlock& block = guest_.ram.block_of(range.first);
      const std::uint64_t block_end = block.first.value + block.bytes / kPageSize;
      const auto count = static_cast<std::uint32_t>(std::min<std::uint64_t>(range.count, block_end - range.first.value));
      guest_.ram.read({range.first, count}, {run.data(), std::size_t{count} * kPageSize});
      for (std::uint32_t i = 0; i < count; ++i) {
        writer.put(PageNo{range.first.value + i},
                   std::span<const std::byte, kPageSize>(run.data() + std::size_t{i} * kPageSize, kPageSize));
      }
      range = {PageNo{range.first.value + count}, range.count - count};
      done += count;
    }
    progress("copying memory", done, total);
  });
}

// What a copy reads while the guest writes it is torn, and comes again: it was protected before it was read. Not so what a
// disk is reading into memory that the kernel has pinned (O_DIRECT): that page is reported when the request begins, and not
// when the data comes. So between a look and its copy, every request under way has to end.
void Checkpointer::copy_while_running(guest::PageSet& todo, store::Writer& writer, const StageFn& progress) {
  if (todo.count() < kCopyBeforePauseMin) return;
  guest_.machine.drain_disks();
  for (int round = 0; todo.count() > kStagedPagesMax && round < kStreamRoundsMax; ++round) {
    const std::uint32_t before = todo.count();
    stream(todo, writer, progress);
    todo.clear();
    todo.add(guest_.written.collect());
    guest_.machine.drain_disks();
    if (todo.count() > before / 2 && round > 0) break;  // it writes as fast as this copies
  }
  if (todo.count() < kCopyBeforePauseMin || todo.count() > kStagedPagesMax) return;
  staging_.copy(guest_.ram, todo);
  todo.clear();
}

// `lately`: what else was written while it was at rest, or just before, is not looked for.
void Checkpointer::copy_at_rest(guest::PageSet& todo, bool lately, Paused& out) {
  guest::DeviceSaver::Save save(guest_.saver);
  if (lately) {
    todo.add(guest_.written.collect_written_lately());
  } else {
    todo.add(guest_.written.collect_written());
  }
  staging_.copy(guest_.ram, todo);
  out.at_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  out.device_state = save.finish();
}

void Checkpointer::copy_with_disks(guest::PageSet& todo, DiskPoints::Attempt& disks, Paused& out) {
  Pause pause(guest_.machine, state_);
  copy_at_rest(todo, false, out);
  disks.take_stopped();
  pause.resume();
  out.pause_us += pause.microseconds();
}

// The disks' point, and that memory was written only where the pause looked, is proved when the guest runs again. Where it was
// not so, this moment is given up for a later one, that is looked at whole; the last one has the disks' point taken in the pause.
Checkpointer::Paused Checkpointer::pause_at_one_moment(guest::PageSet& todo, DiskPoints::Attempt& disks) {
  guest_.saver.prepare();
  Paused out;
  bool lately = guest_.ram.pages() > kLookedAtPagesMax && whole_ == 0;
  if (whole_ > 0) --whole_;
  for (; disks.prepare(); lately = false) {
    const auto from = std::chrono::steady_clock::now();
    copy_at_rest(todo, lately, out);
    out.pause_us += microseconds_since(from);
    const bool all = !lately || guest_.tracker.nothing_elsewhere();
    if (lately) misses_ = all ? 0 : misses_ + 1;
    if (misses_ == kMissesMax) {
      misses_ = 0;
      whole_ = kWholeAfterMisses;
    }
    if (disks.held() && all) return out;
    todo.clear();
  }
  copy_with_disks(todo, disks, out);
  return out;
}

void Checkpointer::store_staged(store::Writer& writer, const StageFn& progress) {
  std::uint64_t done = 0;
  for (const PageNo page : staging_.pages()) {
    writer.put(page, std::span<const std::byte, kPageSize>(staging_.find(page), kPageSize));
    if (++done % 1024 == 0) progress("storing memory", done, staging_.pages().size());
  }
}

store::CheckpointInfo Checkpointer::create(const CreateRequest& request, const StageFn& progress) {
  guest_.check_layout();
  store::CheckpointInfo info;
  info.id = new_uuid();
  info.parent = request.parent;
  info.name = request.name;
  info.automatic = request.automatic;
  info.epoch = request.epoch;
  info.machine = guest_.machine_name;
  info.domain_xml = guest_.domain_xml;
  info.blocks = blocks_of(guest_.ram);

  store::Writer writer = store_.begin(request.parent, request.effort);
  // Only the difference to the base is known; against another parent every page has to be looked at.
  if (guest_.gave_memory_back() || lineage_.base() != request.parent) lineage_.lose();
  staging_.clear();
  guest::PageSet todo = lineage_.begin();
  copy_while_running(todo, writer, progress);
  DiskPoints::Attempt disks(disk_points_, info);
  const Paused paused = pause_at_one_moment(todo, disks);
  info.created_ns = paused.at_ns;
  info.pause_us = request.runs ? paused.pause_us : 0;
  background_.run([&] {
    store_staged(writer, progress);
    disks.put(writer);
    writer.put_device_state(paused.device_state);
    info = writer.commit(std::move(info));
  });
  disks.commit();
  lineage_.saved(info.id);
  return info;
}

}  // namespace mhv::checkpoint
