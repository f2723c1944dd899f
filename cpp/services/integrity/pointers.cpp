#include "integrity/pointers.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace mhv::integrity {
namespace {

struct Family {
  std::string_view ending, structure;
};
// The first that fits.
constexpr Family kFamilies[] = {{"proc_ops", "proc_ops"},
                                {"seq_ops", "seq_operations"},
                                {"_seqops", "seq_operations"},
                                {"seq_operations", "seq_operations"},
                                {"file_ops", "file_operations"},
                                {"_fops", "file_operations"},
                                {"file_operations", "file_operations"},
                                {"dir_operations", "file_operations"},
                                {"inode_ops", "inode_operations"},
                                {"_iops", "inode_operations"},
                                {"inode_operations", "inode_operations"},
                                {"dentry_operations", "dentry_operations"},
                                {"dentry_ops", "dentry_operations"},
                                {"super_operations", "super_operations"},
                                {"super_ops", "super_operations"},
                                {"_aops", "address_space_operations"},
                                {"_seq_op", "seq_operations"}};
constexpr const char* kMembers[] = {
    "start",         "stop",       "next",           "show",         "llseek",         "read",         "write",       "read_iter",
    "write_iter",    "iterate",    "iterate_shared", "poll",         "unlocked_ioctl", "compat_ioctl", "mmap",        "open",
    "flush",         "release",    "fsync",          "splice_read",  "splice_write",   "lookup",       "permission",  "create",
    "link",          "unlink",     "mkdir",          "rmdir",        "rename",         "setattr",      "getattr",     "listxattr",
    "readlink",      "get_link",   "proc_open",      "proc_read",    "proc_read_iter", "proc_write",   "proc_lseek",  "proc_release",
    "proc_poll",     "proc_ioctl", "proc_mmap",      "d_revalidate", "d_hash",         "d_compare",    "d_delete",    "alloc_inode",
    "destroy_inode", "statfs",     "put_super",      "read_folio",   "writepage",      "writepages",   "dirty_folio", "close",
    "connect",       "accept",     "ioctl",          "init",         "destroy",        "sendmsg",      "recvmsg",     "bind",
    "hash",          "unhash",     "get_port"};

const Family* family_of(std::string_view symbol) {
  const auto found = std::ranges::find_if(kFamilies, [&](const Family& family) { return symbol.ends_with(family.ending); });
  return found == std::end(kFamilies) ? nullptr : &*found;
}

bool is_function(const Kernel& kernel, GuestVirt at) {
  const auto symbol = kernel.symbols().before(at);
  return symbol && symbol->at == at && (symbol->type == 't' || symbol->type == 'T' || symbol->type == 'w' || symbol->type == 'W');
}

// The first task's stack stands among data; what is on it are no pointers to keep.
Range first_stack(const Kernel& kernel) {
  constexpr std::uint64_t kStackBytes = 32 << 10;
  const auto at = kernel.symbols().find("init_stack");
  return at ? Range{*at, kStackBytes} : Range{};
}

std::vector<FunctionPointer> find_in(Reader& reader, const Image& image, const Range& range, const Range& without) {
  std::vector<FunctionPointer> out;
  std::array<GuestVirt, kPageSize / sizeof(GuestVirt)> page;
  for (GuestVirt at{range.start.value & ~(kPageSize - 1)}; at < range.end(); at = at + kPageSize) {
    if (without.has(at) || !reader.read(at, std::as_writable_bytes(std::span(page)))) continue;
    for (std::size_t i = 0; i < page.size(); ++i) {
      if (image.text.has(page[i]) && is_function(reader.kernel(), page[i])) out.push_back({at + i * sizeof(GuestVirt), page[i]});
    }
  }
  return out;
}

}  // namespace

PointerTable::PointerTable(Reader& reader, const Image& image)
    : read_only_(find_in(reader, image, image.rodata, {})), data_(find_in(reader, image, image.data, first_stack(reader.kernel()))) {
  for (std::uint32_t i = 0; i < data_.size(); ++i) {
    const GuestVirt page{data_[i].at.value & ~(kPageSize - 1)};
    if (pages_.empty() || pages_.back().at != page) {
      const auto mapping = reader.kernel().space().translate(page);
      pages_.push_back({page, mapping ? mapping->at : GuestPhys{}, i, i, false});
    }
    pages_.back().end = i + 1;
  }
}

GuestVirt PointerTable::was_at(GuestVirt at) const {
  for (const auto* table : {&read_only_, &data_}) {
    const auto found = std::ranges::lower_bound(*table, at, {}, &FunctionPointer::at);
    if (found != table->end() && found->at == at) return found->was;
  }
  return {};
}

std::vector<PointerTable::Changed> PointerTable::check(Reader& reader, CodeMap& map, const Written* written) {
  std::vector<Changed> out;
  std::array<GuestVirt, kPageSize / sizeof(GuestVirt)> now;
  for (Page& page : pages_) {
    if (written != nullptr && !page.suspect && !was_written(*written, page.phys)) continue;
    if (!reader.read(page.at, std::as_writable_bytes(std::span(now)))) continue;
    page.suspect = false;
    for (std::uint32_t i = page.begin; i < page.end; ++i) {
      const GuestVirt is = now[(data_[i].at - page.at) / sizeof(GuestVirt)];
      if (is == data_[i].was || is.value < kKernelSpace || map.is_own(is) || map.is_made(is)) continue;
      page.suspect = true;
      out.push_back({data_[i].at, data_[i].was, is});
    }
  }
  return out;
}

bool is_operations(std::string_view symbol) { return family_of(symbol) != nullptr; }

std::string describe_pointer(const Kernel& kernel, GuestVirt at) {
  const auto symbol = kernel.symbols().before(at);
  const Family* const family = symbol ? family_of(symbol->name) : nullptr;
  if (family != nullptr) {
    for (const char* member : kMembers) {
      const auto field = kernel.types().field(family->structure, member);
      if (field && field->offset == at - symbol->at) return std::string(symbol->name) + "." + member;
    }
  }
  return describe_symbol(kernel, at);
}

}  // namespace mhv::integrity
