#include "checkpoint/convert.h"

#include "checkpoint/disk_area.h"

namespace mhv::checkpoint {

protocol::Checkpoint to_protocol(const store::CheckpointInfo& info, const std::string& guest, const std::string& current) {
  protocol::Checkpoint out;
  out.set_id(info.id);
  out.set_parent(info.parent);
  out.set_name(info.name);
  out.set_guest(guest);
  out.set_created_ns(info.created_ns);
  out.set_automatic(info.automatic);
  out.set_state("available");
  out.set_epoch(info.epoch);
  std::uint64_t ram_bytes = 0;
  for (const store::BlockInfo& block : memory_blocks(info)) ram_bytes += block.bytes;
  out.set_ram_bytes(ram_bytes);
  out.set_ram_stored_bytes(info.bytes_stored);
  out.set_pages(info.pages);
  out.set_pages_stored(info.pages_stored);
  out.set_pause_us(info.pause_us);
  out.set_device_state_bytes(info.device_state_bytes);
  for (const store::DiskInfo& disk : info.disks) {
    protocol::DiskPoint& point = *out.add_disks();
    point.set_target(disk.target);
    point.set_path(disk.path);
    point.set_format(disk.format);
    point.set_snapshot(disk.snapshot);
    point.set_note(disk.note);
    point.set_changed_bytes(disk.changed_bytes);
  }
  out.set_current(info.id == current);
  return out;
}

protocol::VerifyReport to_protocol(const store::CheckResult& result) {
  protocol::VerifyReport out;
  out.set_checkpoints(result.checkpoints);
  out.set_records(result.records);
  out.set_bytes(result.bytes);
  for (const std::string& problem : result.problems) out.add_problems(problem);
  for (const std::string& id : result.damaged) out.add_damaged(id);
  return out;
}

protocol::RepairReport to_protocol(const store::RepairResult& result) {
  protocol::RepairReport out;
  out.set_kept(result.kept);
  for (const std::string& id : result.lost) out.add_lost(id);
  for (const std::string& problem : result.problems) out.add_problems(problem);
  return out;
}

protocol::StoreStatReply to_protocol(const store::StoreStat& stat) {
  protocol::StoreStatReply out;
  out.set_checkpoints(stat.checkpoints);
  out.set_links(stat.links);
  out.set_segments(stat.segments);
  out.set_bytes(stat.bytes);
  out.set_pages(stat.pages);
  if (stat.pages != 0) out.set_saved_fraction(1 - static_cast<double>(stat.bytes) / static_cast<double>(stat.pages * kPageSize));
  out.set_contents(stat.contents);
  const auto add = [&out](const char* name, std::uint64_t contents, std::uint64_t bytes) {
    protocol::StoreEncoding& encoding = *out.add_encodings();
    encoding.set_name(name);
    encoding.set_contents(contents);
    encoding.set_bytes(bytes);
  };
  add("raw", stat.raw, stat.raw_bytes);
  add("lz4", stat.lz4, stat.lz4_bytes);
  add("filled", stat.filled, stat.filled_bytes);
  add("delta", stat.delta, stat.delta_bytes);
  add("zstd", stat.zstd, stat.zstd_bytes);
  return out;
}

}  // namespace mhv::checkpoint
