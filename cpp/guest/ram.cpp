#include "guest/ram.h"

#include <unistd.h>

#include <algorithm>
#include <limits>

#include "base/error.h"

namespace mhv::guest {
namespace {

[[noreturn]] void throw_gone(const std::string& what) { throw Error(Code::kGone, what + ": the guest's QEMU has ended"); }

// Where in its file a block begins.
std::uint64_t file_base(const RamBlock& block) { return block.shared ? block.fd_offset : block.host.value; }

// /proc/PID/mem answers a process that is exiting with 0 bytes (no address space any more), EIO (mapping gone) or ESRCH.
template <typename Transfer>
void transfer_all(const RamBlock& block, std::uint64_t offset, std::size_t bytes, const char* verb, Transfer transfer) {
  std::size_t done = 0;
  while (done < bytes) {
    const ssize_t n = transfer(done, static_cast<off_t>(file_base(block) + offset + done));
    if (n > 0) {
      done += static_cast<std::size_t>(n);
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    const std::string what = std::string("cannot ") + verb + " RAM block " + block.name;
    if (n == 0 && block.shared) throw Error(Code::kCorrupt, what + ": its file ends early");
    if (n == 0 || (!block.shared && (errno == ESRCH || errno == EIO))) throw_gone(what);
    throw_errno(what);
  }
}

}  // namespace

Ram::Ram(std::vector<RamBlock> blocks, std::vector<Fd> fds) : blocks_(std::move(blocks)), fds_(std::move(fds)) {
  if (blocks_.empty() || blocks_.size() > kRamBlocksMax) throw Error(Code::kInvalid, "a guest has 1 to 256 RAM blocks");
  std::uint64_t pages = 0;
  for (auto& block : blocks_) {
    const std::uint64_t end = std::numeric_limits<std::int64_t>::max();
    if (block.bytes == 0 || block.bytes % kPageSize != 0 || block.host.value % kPageSize != 0 || block.bytes > end - file_base(block) ||
        file_base(block) > end) {
      throw Error(Code::kInvalid, "RAM block " + block.name + " is not made of whole pages");
    }
    block.first = {static_cast<std::uint32_t>(pages)};
    pages += block.bytes >> kPageShift;
    if (pages > std::numeric_limits<std::uint32_t>::max()) throw Error(Code::kUnsupported, "the guest has more than 16 TiB of RAM");
  }
  pages_ = static_cast<std::uint32_t>(pages);
}

Ram Ram::duplicate() const {
  std::vector<RamBlock> blocks = blocks_;
  std::vector<Fd> fds;
  for (const Fd& fd : fds_) {
    fds.push_back(fd ? fd.duplicate() : Fd());
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      if (fd && blocks_[i].fd == fd.get()) blocks[i].fd = fds.back().get();
    }
  }
  return Ram(std::move(blocks), std::move(fds));
}

const RamBlock& Ram::block_of(PageNo page) const {
  if (page.value >= pages_) throw Error(Code::kInvalid, "page " + std::to_string(page.value) + " is beyond the guest's RAM");
  const auto after = std::upper_bound(blocks_.begin(), blocks_.end(), page, [](PageNo p, const RamBlock& b) { return p < b.first; });
  return *std::prev(after);
}

HostVirt Ram::host_of(PageNo page) const {
  const RamBlock& block = block_of(page);
  return block.host + (std::uint64_t{page.value - block.first.value} << kPageShift);
}

PageRange Ram::pages_of(HostVirt start, std::uint64_t bytes) const {
  for (const auto& block : blocks_) {
    if (start < block.host || start - block.host >= block.bytes) continue;
    const std::uint64_t offset = start - block.host;
    if (bytes > block.bytes - offset || bytes == 0 || bytes % kPageSize != 0 || offset % kPageSize != 0) break;
    return {{block.first.value + static_cast<std::uint32_t>(offset >> kPageShift)}, static_cast<std::uint32_t>(bytes >> kPageShift)};
  }
  throw Error(Code::kInvalid, "an address range is not inside one RAM block");
}

const RamBlock& Ram::block_of_range(PageNo page, std::uint64_t bytes) const {
  const RamBlock& block = block_of(page);
  const std::uint64_t offset = std::uint64_t{page.value - block.first.value} << kPageShift;
  if (bytes % kPageSize != 0 || bytes > block.bytes - offset) throw Error(Code::kInvalid, "pages cross the end of RAM block " + block.name);
  return block;
}

void Ram::read(PageRange range, std::span<std::byte> out) const {
  const RamBlock& block = block_of_range(range.first, std::uint64_t{range.count} << kPageShift);
  if (out.size() != std::uint64_t{range.count} << kPageShift) throw Error(Code::kInvalid, "the buffer does not have the size of the pages");
  read(block, std::uint64_t{range.first.value - block.first.value} << kPageShift, out);
}

void Ram::read(const RamBlock& block, std::uint64_t offset, std::span<std::byte> out) const {
  if (offset > block.bytes || out.size() > block.bytes - offset) throw Error(Code::kInvalid, "beyond the end of RAM block " + block.name);
  transfer_all(block, offset, out.size(), "read",
               [&](std::size_t done, off_t at) { return ::pread(block.fd, out.data() + done, out.size() - done, at); });
}

void Ram::write(PageNo page, std::span<const std::byte> data) {
  const RamBlock& block = block_of_range(page, data.size());
  const std::uint64_t offset = std::uint64_t{page.value - block.first.value} << kPageShift;
  transfer_all(block, offset, data.size(), "write",
               [&](std::size_t done, off_t at) { return ::pwrite(block.fd, data.data() + done, data.size() - done, at); });
}

}  // namespace mhv::guest
