#include "mhvd/domain_xml.h"

#include <boost/property_tree/ptree.hpp>
#include <boost/property_tree/xml_parser.hpp>
#include <sstream>

#include "base/error.h"

namespace mhv::mhvd {
namespace {

using Tree = boost::property_tree::ptree;

constexpr std::size_t kXmlBytesMax = 4u << 20;

std::string attribute(const Tree& node, const std::string& path) { return node.get<std::string>(path, ""); }

void refuse(DomainFacts& facts, std::string what, std::string hint) { facts.refusals.push_back({std::move(what), std::move(hint)}); }

void read_disk(const Tree& disk, DomainFacts& facts) {
  DomainDisk out;
  const std::string type = attribute(disk, "<xmlattr>.type");
  const std::string device = disk.get<std::string>("<xmlattr>.device", "disk");
  out.target = attribute(disk, "target.<xmlattr>.dev");
  out.alias = attribute(disk, "alias.<xmlattr>.name");
  out.format = disk.get<std::string>("driver.<xmlattr>.type", "raw");
  out.read_only = device == "cdrom" || disk.find("readonly") != disk.not_found();
  out.local_file = type == "file" || type == "block";
  if (type == "file") out.source = attribute(disk, "source.<xmlattr>.file");
  if (type == "block") out.source = attribute(disk, "source.<xmlattr>.dev");
  if (type == "network") out.source = attribute(disk, "source.<xmlattr>.protocol") + ":" + attribute(disk, "source.<xmlattr>.name");
  if (type == "vhostuser" || type == "vhostvdpa") {
    refuse(facts, "disk " + out.target + " is " + type + ": its back end writes guest memory unseen",
           "give the disk an ordinary back end (file, block, network)");
  }
  if (device == "lun") refuse(facts, "disk " + out.target + " is a passed-through LUN", "use device='disk'");
  if (!out.source.empty() || !out.read_only) facts.disks.push_back(std::move(out));
}

void read_interface(const Tree& nic, DomainFacts& facts) {
  const std::string type = attribute(nic, "<xmlattr>.type");
  const std::string name = nic.get<std::string>("target.<xmlattr>.dev", attribute(nic, "alias.<xmlattr>.name"));
  if (type == "vhostuser") {
    refuse(facts, "interface " + name + " is vhost-user: its back end writes guest memory unseen",
           "use an ordinary tap (an Open vSwitch without DPDK ports)");
  } else if (type == "hostdev" || type == "vdpa") {
    refuse(facts, "interface " + name + " is a passed-through device (" + type + "): its DMA is unseen", "use vnic_type normal");
  }
  const bool has_tap = type == "bridge" || type == "network" || type == "ethernet";
  facts.nics.push_back({name + " (" + type + ")", has_tap ? attribute(nic, "target.<xmlattr>.dev") : "", has_tap});
}

void read_devices(const Tree& devices, DomainFacts& facts) {
  for (const auto& [tag, node] : devices) {
    if (tag == "disk") read_disk(node, facts);
    if (tag == "interface") read_interface(node, facts);
    if (tag == "hostdev") {
      refuse(facts, "a host device (" + attribute(node, "<xmlattr>.type") + ") is passed through: its state and DMA are unseen",
             "remove the host device from the flavor or the domain");
    }
    if (tag == "filesystem" && attribute(node, "driver.<xmlattr>.type") == "virtiofs") {
      refuse(facts, "a virtiofs share is attached: it is a vhost-user device", "remove the share");
    }
    if (tag == "tpm" && attribute(node, "backend.<xmlattr>.type") == "passthrough") {
      refuse(facts, "the host's TPM is passed through", "use an emulated TPM, or none");
    }
    // A balloon tells when it changes; these give memory back without a word.
    if (tag == "memballoon" && attribute(node, "<xmlattr>.freePageReporting") == "on") {
      refuse(facts, "its balloon reports free pages: memory changes unseen", "set freePageReporting='off'");
    }
    if (tag == "memory" && attribute(node, "<xmlattr>.model") == "virtio-mem") {
      refuse(facts, "it has virtio-mem memory, which changes unseen", "give the guest ordinary memory");
    }
  }
}

// -chardev socket,id=mhv,path=...,... ; other arguments of the command line that bypass the checks above.
void read_command_line(const Tree& command_line, DomainFacts& facts) {
  for (const auto& [tag, node] : command_line) {
    if (tag != "qemu:arg") continue;
    const std::string value = attribute(node, "<xmlattr>.value");
    if (value.find("vhost-user") != std::string::npos || value.find("vfio") != std::string::npos) {
      refuse(facts, "the domain's qemu:commandline has \"" + value.substr(0, 80) + "\": its DMA is unseen", "remove that argument");
    }
    if (value.rfind("socket,", 0) != 0 || (value + ",").find(",id=mhv,") == std::string::npos) continue;
    const std::size_t at = value.find(",path=");
    if (at != std::string::npos) facts.own_monitor = value.substr(at + 6, value.find(',', at + 6) - at - 6);
  }
}

Tree parse(std::string_view xml) {
  if (xml.size() > kXmlBytesMax) throw Error(Code::kInvalid, "the domain's XML is larger than " + std::to_string(kXmlBytesMax) + " bytes");
  Tree root;
  try {
    std::istringstream in{std::string(xml)};
    boost::property_tree::read_xml(in, root, boost::property_tree::xml_parser::no_comments);
    return root.get_child("domain");
  } catch (const boost::property_tree::ptree_error& error) {
    throw Error(Code::kInvalid, std::string("this is no domain XML: ") + error.what());
  }
}

}  // namespace

DomainFacts parse_domain_xml(std::string_view xml) {
  const Tree domain = parse(xml);
  DomainFacts facts;
  facts.type = attribute(domain, "<xmlattr>.type");
  facts.machine = attribute(domain, "os.type.<xmlattr>.machine");
  if (facts.type != "kvm" && facts.type != "qemu") {
    refuse(facts, "the domain's type is \"" + facts.type + "\"", "only QEMU with KVM or TCG (type kvm or qemu) is supported");
  }
  if (domain.get_child_optional("memoryBacking.hugepages")) {
    refuse(facts, "its memory is backed by huge pages", "remove hw:mem_page_size (memoryBacking/hugepages) from the flavor or the domain");
  }
  if (domain.get_child_optional("launchSecurity")) {
    refuse(facts, "its memory is encrypted (launchSecurity)", "use a flavor without memory encryption");
  }
  if (const auto devices = domain.get_child_optional("devices")) read_devices(*devices, facts);
  if (const auto command_line = domain.get_child_optional("qemu:commandline")) read_command_line(*command_line, facts);
  return facts;
}

void refuse_unsupported(const DomainFacts& facts) {
  if (facts.refusals.empty()) return;
  throw Error(Code::kUnsupported, "this guest cannot be attached: " + facts.refusals.front().what, facts.refusals.front().hint);
}

std::vector<std::string> taps_of(const std::vector<DomainNic>& nics) {
  std::vector<std::string> out;
  for (const DomainNic& nic : nics) {
    if (!nic.has_tap) {
      throw Error(Code::kUnsupported, "interface " + nic.name + " has no tap, and packets cannot be had elsewhere",
                  "use an ordinary tap (vnic_type normal), or leave out the services that claim the network");
    }
    if (!nic.tap.empty()) out.push_back(nic.tap);
  }
  return out;
}

void check_disk_policy(const std::vector<DomainDisk>& disks, protocol::DiskPolicy policy) {
  if (policy != protocol::DISKS_REQUIRED) return;
  for (const DomainDisk& disk : disks) {
    if (disk.read_only || (disk.format == "qcow2" && disk.local_file)) continue;
    throw Error(Code::kUnsupported,
                "disk " + disk.target + " (" + disk.format + ", " + disk.source +
                    ") cannot be checkpointed: only local qcow2 images hold snapshots of their own",
                "use a qcow2 image for it, or set mhv:checkpoint_disks=best-effort or none (mhvctl attach --disks)");
  }
}

}  // namespace mhv::mhvd
