// What mhvd needs of a libvirt domain's live XML, and which guests it must refuse because of it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "mhv.pb.h"

namespace mhv::mhvd {

struct DomainDisk {
  std::string target;  // "vda"
  std::string alias;   // "virtio-disk0"
  std::string source;  // file, device or "protocol:name"
  std::string format;  // "qcow2", "raw"
  bool read_only = false;
  bool local_file = false;  // <disk type='file'>, or a block device
};

struct DomainNic {
  std::string name;  // for people
  std::string tap;   // "": it has none, or the domain does not run
  bool has_tap = false;
};

struct DomainFacts {
  std::string type;               // "kvm", "qemu"
  std::string machine;            // canonical, "pc-i440fx-10.0"
  std::vector<DomainDisk> disks;  // CD-ROMs and floppies too
  std::vector<DomainNic> nics;
  std::string own_monitor;  // path of the socket of the chardev `mhv`; "" when there is none
  // What the engine cannot follow: "interface tap0 is vhost-user: ...", each with what to change.
  struct Refusal {
    std::string what;
    std::string hint;
  };
  std::vector<Refusal> refusals;
};

// Throws kInvalid on text that is no domain XML or larger than 4 MiB. Pure.
DomainFacts parse_domain_xml(std::string_view xml);

// Throws kUnsupported with the first refusal.
void refuse_unsupported(const DomainFacts& facts);

// Of those that run. Throws kUnsupported: one has no tap at which its packets could be had.
std::vector<std::string> taps_of(const std::vector<DomainNic>& nics);

// Applies the disk policy; throws kUnsupported naming the disk, why, and
// the ways out.
void check_disk_policy(const std::vector<DomainDisk>& disks, protocol::DiskPolicy policy);

}  // namespace mhv::mhvd
