#include "checkpoint/export.h"

#include <regex>

#include "base/error.h"
#include "base/fd.h"
#include "guest/stream.h"

namespace mhv::checkpoint {

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

  std::vector<guest::StreamBlock> blocks;
  std::vector<std::uint64_t> first_page;
  std::uint64_t pages = 0;
  for (const store::BlockInfo& block : info.blocks) {
    blocks.push_back({block.name, block.bytes});
    first_page.push_back(pages);
    pages += block.bytes / kPageSize;
  }
  if (pages != table.size())
    throw Error(Code::kCorrupt, "checkpoint " + id + " names other memory blocks than it has pages for", "run: mhvctl checkpoint verify");

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

}  // namespace mhv::checkpoint
