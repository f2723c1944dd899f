#include "guest/disk_writer.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "guest/fdset.h"

namespace mhv::guest {
namespace {

constexpr const char* kWriteOpaque = "nova-mhv disk write";
constexpr const char* kProbeNode = "mhv-write-probe";
constexpr std::size_t kProbeBytes = 4096;

}  // namespace

DiskWriter::DiskWriter(Qmp& qmp, std::span<const DiskNode> disks)
    : qmp_(qmp), disks_(disks.begin(), disks.end()), memory_(Fd::memory("mhv-disk-write")) {
  look();
  if (::fchmod(memory_.get(), 0644) != 0) throw_errno("cannot make a disk's content readable for QEMU");
  remove_fdsets(qmp_, kWriteOpaque);
  source_ = "/proc/self/fd/" + std::to_string(give_fd(qmp_, memory_, kWriteOpaque).number);
}

void DiskWriter::look() {
  const Qmp::Json all = qmp_.call("query-block");
  for (const DiskNode& disk : disks_) {
    devices_.erase(disk.node);
    for (const auto& entry : all) {
      const Qmp::Json inserted = entry.value("inserted", Qmp::Json::object());
      if (text_of(inserted, "node-name") != disk.node || text_of(entry, "qdev").empty()) continue;
      const Qmp::Json image = inserted.value("image", Qmp::Json::object());
      devices_[disk.node] = {text_of(entry, "qdev"), image.value("virtual-size", std::uint64_t{0})};
    }
    if (!devices_.contains(disk.node)) throw Error(Code::kInvalid, "disk " + disk.target + " belongs to no device of the guest");
  }
}

DiskWriter::~DiskWriter() {
  try {
    remove_fdsets(qmp_, kWriteOpaque);
  } catch (const std::exception&) {  // the next one removes it
  }
}

void DiskWriter::command(const std::string& to, const std::string& text) {
  const std::string answer = qmp_.hmp("qemu-io " + to + " \"" + text + "\"");
  if (!answer.empty()) throw Error(Code::kInternal, "QEMU refuses to write a disk: " + answer);
}

void DiskWriter::write_to(const std::string& to, std::uint64_t offset, std::span<const std::byte> data) {
  if (::ftruncate(memory_.get(), static_cast<off_t>(data.size())) != 0) throw_errno("cannot hold what is to be written to a disk");
  pwrite_all(memory_.get(), data, 0, "what is to be written to a disk");
  command(to, "write -q -s " + source_ + " " + std::to_string(offset) + " " + std::to_string(data.size()));
}

void DiskWriter::probe() {
  const Fd memory = Fd::memory("mhv-write-probe");
  if (::ftruncate(memory.get(), kProbeBytes) != 0) throw_errno("cannot make a disk to try out");
  qmp_.try_call("blockdev-del", {{"node-name", kProbeNode}});
  const std::string path = fdset_path(give_fd(qmp_, memory, kWriteOpaque).set);
  qmp_.call("blockdev-add", {{"driver", "file"}, {"node-name", kProbeNode}, {"filename", path}, {"locking", "off"}});
  const std::vector<std::byte> wanted(kProbeBytes, std::byte{0xa5});
  std::vector<std::byte> seen(kProbeBytes);
  write_to(kProbeNode, 0, wanted);
  qmp_.call("blockdev-del", {{"node-name", kProbeNode}});
  pread_all(memory.get(), seen, 0, "a disk to try out");
  if (seen != wanted) {
    throw Error(Code::kUnsupported, "QEMU cannot read what is to be put back on its disks (" + source_ + ")",
                "see whether the host's security policy (AppArmor, SELinux) keeps QEMU from it; the guest runs on untouched");
  }
}

std::uint64_t DiskWriter::bytes_of(const DiskNode& disk) const { return devices_.at(disk.node).bytes; }

void DiskWriter::write(const DiskNode& disk, std::uint64_t offset, std::span<const std::byte> data) {
  write_to("-d " + devices_.at(disk.node).path, offset, data);
}

void DiskWriter::flush(const DiskNode& disk) { command("-d " + devices_.at(disk.node).path, "flush"); }

}  // namespace mhv::guest
