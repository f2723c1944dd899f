#include "introspection/files.h"

#include <fmt/format.h>

#include <algorithm>

namespace mhv::introspection {
namespace {

constexpr std::uint16_t kTypeBits = 0xf000, kSocket = 0xc000;  // S_IFMT, S_IFSOCK
constexpr std::uint32_t kRead = 1, kWrite = 2;                 // FMODE_READ, FMODE_WRITE
constexpr std::uint32_t kFilesMax = 1u << 20;                  // NR_OPEN, unless somebody raised it
constexpr std::size_t kPointersAtOnce = 512;

std::string_view kind_of(std::uint16_t mode) {
  switch (mode & kTypeBits) {
    case 0x1000: return "pipe";
    case 0x2000: return "character";
    case 0x4000: return "directory";
    case 0x6000: return "block";
    case 0x8000: return "file";
    case 0xa000: return "link";
    case kSocket: return "socket";
    default: return "other";
  }
}

}  // namespace

Files::Files(const Kernel& kernel)
    : kernel_(kernel),
      processes_(kernel),
      paths_(kernel),
      files_(kernel.offset("task_struct", "files")),
      tgid_(kernel.offset("task_struct", "tgid")),
      table_(kernel.offset("files_struct", "fdt")),
      count_(kernel.offset("fdtable", "max_fds")),
      pointers_(kernel.offset("fdtable", "fd")),
      place_(kernel.offset("file", "f_path")),
      inode_(kernel.offset("file", "f_inode")),
      mode_(kernel.offset("file", "f_mode")),
      inode_number_(kernel.offset("inode", "i_ino")),
      inode_mode_(kernel.offset("inode", "i_mode")) {}

std::vector<Files::Open> Files::open(Walk& walk, const Process& process) const {
  if (walk.get<std::int32_t>(process.task + tgid_) != process.pid) throw Torn();
  const auto files = walk.get<GuestVirt>(process.task + files_);
  if (files.value == 0) return {};  // it is ending
  const auto table = walk.get<GuestVirt>(files + table_);
  const auto count = walk.get<std::uint32_t>(table + count_);
  const auto pointers = walk.get<GuestVirt>(table + pointers_);
  if (count > kFilesMax) throw Torn();
  std::vector<Open> out;
  for (unsigned first = 0; first < count; first += kPointersAtOnce) {
    std::array<GuestVirt, kPointersAtOnce> some;
    const std::span found(some.data(), std::min<std::size_t>(count - first, kPointersAtOnce));
    walk.read(pointers + first * sizeof(GuestVirt), std::as_writable_bytes(found));
    for (unsigned i = 0; i < found.size(); ++i) {
      if (found[i].value == 0) continue;
      walk.row();
      out.push_back({first + i, found[i]});
    }
  }
  return out;
}

std::uint16_t Files::mode(Walk& walk, GuestVirt file) const {
  return walk.get<std::uint16_t>(walk.get<GuestVirt>(file + inode_) + inode_mode_);
}

std::uint64_t Files::inode(Walk& walk, GuestVirt file) const {
  return walk.get<std::uint64_t>(walk.get<GuestVirt>(file + inode_) + inode_number_);
}

File Files::read(Walk& walk, Open open) const {
  File out;
  out.fd = open.fd;
  out.structure = open.file;
  out.kind = kind_of(mode(walk, open.file));
  out.inode = inode(walk, open.file);
  const auto flags = walk.get<std::uint32_t>(open.file + mode_);
  out.readable = (flags & kRead) != 0;
  out.writable = (flags & kWrite) != 0;
  const auto place = walk.get<FilePlace>(open.file + place_);
  const std::string type = paths_.type(walk, paths_.superblock(walk, place.mount));
  if (type == "pipefs" || type == "sockfs") {
    out.path = fmt::format("{}:[{}]", out.kind, out.inode);
  } else if (type == "anon_inodefs") {
    out.path = "anon_inode:" + paths_.name(walk, place.dentry);
  } else if (type == "pidfs") {
    out.path = "anon_inode:[pidfd]";
  } else if (type == "nsfs") {
    out.path = fmt::format("namespace:[{}]", out.inode);
  } else {
    out.path = *paths_.of(walk, place);
  }
  return out;
}

std::vector<OfProcess<File>> Files::list(std::optional<std::int32_t> pid) const {
  return each_process(kernel_, processes_, pid, [this](Walk& walk, const Process& process) {
    std::vector<File> out;
    for (const Open& one : open(walk, process)) out.push_back(read(walk, one));
    return out;
  });
}

}  // namespace mhv::introspection
