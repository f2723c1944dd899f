#include "checkpoint/export.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <regex>

#include "base/error.h"
#include "base/fd.h"
#include "checkpoint/disk_area.h"
#include "guest/elf_core.h"
#include "guest/stream.h"

namespace mhv::checkpoint {
namespace {

constexpr std::size_t kPagesAtOnce = 1024;

std::vector<guest::StreamBlock> stream_blocks(const store::CheckpointInfo& info, const store::PageTable& table) {
  std::vector<guest::StreamBlock> out;
  std::uint64_t pages = 0;
  for (const store::BlockInfo& block : memory_blocks(info)) {
    out.push_back({block.name, block.bytes});
    pages += block.bytes / kPageSize;
  }
  if (pages > table.size()) {
    throw Error(Code::kCorrupt, "checkpoint " + info.id + " names other memory blocks than it has pages for",
                "run: mhvctl checkpoint verify");
  }
  return out;
}

// Those pages that are not zero, one behind the other from `offset` on.
void write_pages(const store::Store& store, std::span<const store::PageKey> pages, int fd, std::uint64_t offset,
                 std::span<std::byte> buffer) {
  std::vector<store::PageRead> reads;
  for (std::size_t i = 0; i < pages.size(); ++i) {
    if (!pages[i].is_zero_page()) reads.push_back({pages[i], buffer.data() + i * kPageSize});
  }
  store.read_many(reads);
  const auto is_zero = [](const store::PageKey& key) { return key.is_zero_page(); };
  for (auto from = std::ranges::find_if_not(pages, is_zero); from != pages.end();) {
    const auto to = std::find_if(from, pages.end(), is_zero);
    const auto at = static_cast<std::size_t>(from - pages.begin()) * kPageSize;
    pwrite_all(fd, buffer.subspan(at, static_cast<std::size_t>(to - from) * kPageSize), offset + at, "the exported core");
    from = std::find_if_not(to, pages.end(), is_zero);
  }
}

}  // namespace

std::string without_own_monitor(std::string_view domain_xml) {
  // Only libvirt's own serialisation is met here (one element a line, single quotes).
  static const std::regex kMonitor(
      "\\s*<qemu:arg value='-chardev'/>\\s*<qemu:arg value='socket,id=mhv,[^']*'/>"
      "\\s*<qemu:arg value='-mon'/>\\s*<qemu:arg value='chardev=mhv,mode=control'/>");
  static const std::regex kEmpty("\\s*<qemu:commandline>\\s*</qemu:commandline>");
  return std::regex_replace(std::regex_replace(std::string(domain_xml), kMonitor, ""), kEmpty, "");
}

std::uint64_t export_save_image(const store::Store& store, const std::string& id, int fd, const StageFn& progress) {
  const store::CheckpointInfo info = store.get(id);
  const store::PageTable table = store.resolve(id);
  const std::vector<std::byte> device_state = store.device_state(id);

  const std::vector<guest::StreamBlock> blocks = stream_blocks(info, table);
  std::vector<std::uint64_t> first_page;
  std::uint64_t pages = 0;
  for (const guest::StreamBlock& block : blocks) {
    first_page.push_back(pages);
    pages += block.bytes / kPageSize;
  }

  std::vector<std::byte> buffer;
  buffer.reserve(2u << 20);
  std::uint64_t written = 0;
  const auto flush = [&] {
    write_all(fd, buffer, "the exported image");
    written += buffer.size();
    buffer.clear();
  };
  const auto write = [&](std::span<const std::byte> data) {
    buffer.insert(buffer.end(), data.begin(), data.end());
    if (buffer.size() >= (1u << 20)) flush();
  };
  write(guest::save_image_header(without_own_monitor(info.domain_xml)));
  guest::write_full_stream(
      write, info.machine, blocks,
      [&](std::size_t block, std::uint64_t index, std::span<std::byte, kPageSize> out) {
        const std::uint64_t page = first_page[block] + index;
        if (page % 4096 == 0) progress("writing the image", page, pages);
        if (table[page].is_zero_page()) return false;
        store.read(table[page], out);
        return true;
      },
      device_state);
  flush();
  return written;
}

std::uint64_t export_elf_core(const store::Store& store, const std::string& id, int fd, const StageFn& progress) {
  const store::CheckpointInfo info = store.get_without_xml(id);
  const store::PageTable table = store.resolve(id);
  const std::vector<guest::RamPart> parts = guest::pc_ram(info.machine, stream_blocks(info, table));
  const guest::ElfCore core = guest::elf_core(parts, store.device_state(id));
  pwrite_all(fd, core.head, 0, "the exported core");
  if (::ftruncate(fd, static_cast<off_t>(core.bytes)) != 0) throw_errno("cannot make the exported core as long as memory");

  std::vector<std::byte> buffer(kPagesAtOnce * kPageSize);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto pages = std::span(table).subspan(parts[i].first.value, parts[i].bytes / kPageSize);
    for (std::size_t done = 0; done < pages.size(); done += kPagesAtOnce) {
      const std::uint64_t offset = core.offsets[i] + done * kPageSize;
      progress("writing the core", offset / kPageSize, core.bytes / kPageSize);
      write_pages(store, pages.subspan(done, std::min(kPagesAtOnce, pages.size() - done)), fd, offset, buffer);
    }
  }
  return core.bytes;
}

std::uint64_t export_disk_changes(const store::Store& store, const std::string& id, const std::string& target, int fd) {
  const store::CheckpointInfo info = store.get_without_xml(id);
  const auto disk = std::ranges::find(info.disks, target, &store::DiskInfo::target);
  if (disk == info.disks.end() || disk->snapshot.empty()) {
    throw Error(Code::kNotFound, "checkpoint " + id + " has no snapshot of a disk " + target,
                "\"mhvctl checkpoint show\" shows its disks, and which of them have one");
  }
  struct stat image {};
  if (::fstat(fd, &image) != 0) throw_errno("cannot look at the image of disk " + target);
  const auto size = static_cast<std::uint64_t>(image.st_size);

  const store::PageTable table = store.resolve(id);
  const DiskArea area(store, info, table);
  std::vector<std::byte> content(guest::DiskCluster::kBytes);
  std::uint64_t written = 0;
  for (const auto& [cluster, slot] : area.slots()) {
    if (cluster.disk != static_cast<std::size_t>(disk - info.disks.begin())) continue;
    const std::uint64_t offset = cluster.index * content.size();
    if (offset >= size) {
      throw Error(Code::kCorrupt, "checkpoint " + id + " has changes behind the end of the image of disk " + target,
                  "give the whole disk, as \"qemu-img convert -O raw\" writes it; else run: mhvctl checkpoint verify");
    }
    area.read(slot, content);
    const std::size_t bytes = std::min<std::uint64_t>(content.size(), size - offset);
    pwrite_all(fd, std::span(content).first(bytes), offset, "the exported disk");
    written += bytes;
  }
  return written;
}

}  // namespace mhv::checkpoint
