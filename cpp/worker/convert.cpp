#include "worker/convert.h"

#include "base/error.h"

namespace mhv::worker {
namespace {

Fd take(std::vector<Fd>& fds, std::uint32_t position) {
  if (position >= fds.size() || !fds[position]) throw Error(Code::kInvalid, "mhvd named a descriptor that it did not send");
  return std::move(fds[position]);
}

guest::Ram to_ram(const protocol::WorkerGuestUp& up, std::vector<Fd> fds) {
  std::vector<guest::RamBlock> blocks;
  for (const protocol::GuestBlock& block : up.blocks()) {
    if (block.fd() >= fds.size() || !fds[block.fd()]) throw Error(Code::kInvalid, "mhvd named no memory for block " + block.name());
    guest::RamBlock out;
    out.name = block.name();
    out.host = HostVirt{block.host_virt()};
    out.bytes = block.bytes();
    out.read_only = block.read_only();
    out.shared = block.shared();
    out.fd_offset = block.fd_offset();
    out.fd = fds[block.fd()].get();
    blocks.push_back(std::move(out));
  }
  return guest::Ram(std::move(blocks), std::move(fds));
}

}  // namespace

guest::MissingPages to_missing_pages(const protocol::WorkerGuestUp& up, const std::vector<Fd>& fds) {
  std::vector<Fd> own;
  for (const Fd& fd : fds) own.push_back(fd ? fd.duplicate() : Fd());
  Fd uffd = take(own, up.uffd_fd());
  Fd pagemap = take(own, up.pagemap_fd());
  return guest::MissingPages(std::move(uffd), std::move(pagemap), to_ram(up, std::move(own)));
}

std::unique_ptr<guest::LiveGuest> to_live_guest(const protocol::WorkerGuestUp& up, std::vector<Fd> fds) {
  guest::Qmp qmp(take(fds, up.qmp_fd()), true, up.qmp_pending());
  Fd uffd = take(fds, up.uffd_fd());
  Fd pagemap = take(fds, up.pagemap_fd());
  auto live = std::make_unique<guest::LiveGuest>(to_ram(up, std::move(fds)), std::move(qmp), std::move(uffd), std::move(pagemap),
                                                 up.uffd_is_new(), up.kvm());
  live->machine_name = up.machine();
  live->domain_xml = up.domain_xml();
  for (const protocol::Disk& disk : up.disks()) {
    live->disks.push_back({{disk.target(), disk.node(), disk.path(), disk.format()}, disk.read_only()});
  }
  return live;
}

}  // namespace mhv::worker
