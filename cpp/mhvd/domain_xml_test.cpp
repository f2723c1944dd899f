#include "mhvd/domain_xml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace mhv::mhvd {
namespace {

using ::testing::HasSubstr;

std::string domain(const std::string& devices, const std::string& rest = "", const std::string& type = "kvm") {
  return "<domain type='" + type + "' id='1' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>s1</name>" +
         "<os><type arch='x86_64' machine='pc-i440fx-10.0'>hvm</type></os><devices>" + devices + "</devices>" + rest + "</domain>";
}

constexpr const char* kDisk =
    "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/srv/a.qcow2' index='1'/>"
    "<target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk>";
constexpr const char* kRaw =
    "<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/sdb'/><target dev='vdb'/></disk>";
constexpr const char* kCdrom =
    "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='/srv/c.iso'/><target dev='hda'/><readonly/></disk>";
constexpr const char* kEmptyCdrom = "<disk type='file' device='cdrom'><target dev='hdb'/><readonly/></disk>";
constexpr const char* kRbd =
    "<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='rbd' name='pool/image'/><target "
    "dev='vdc'/></disk>";

void expect_refusal(const std::string& xml, const char* what) {
  try {
    refuse_unsupported(parse_domain_xml(xml));
    FAIL() << "accepted: " << xml;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kUnsupported);
    EXPECT_THAT(error.what(), HasSubstr(what));
    EXPECT_FALSE(error.hint().empty());
  }
}

TEST(DomainXml, ReadsDisksAndMachine) {
  const DomainFacts facts = parse_domain_xml(domain(std::string(kDisk) + kRaw + kCdrom + kEmptyCdrom + kRbd));
  EXPECT_EQ(facts.machine, "pc-i440fx-10.0");
  EXPECT_EQ(facts.type, "kvm");
  ASSERT_EQ(facts.disks.size(), 4u);
  EXPECT_EQ(facts.disks[0].target, "vda");
  EXPECT_EQ(facts.disks[0].alias, "virtio-disk0");
  EXPECT_EQ(facts.disks[0].source, "/srv/a.qcow2");
  EXPECT_EQ(facts.disks[0].format, "qcow2");
  EXPECT_FALSE(facts.disks[0].read_only);
  EXPECT_TRUE(facts.disks[0].local_file);
  EXPECT_EQ(facts.disks[1].source, "/dev/sdb");
  EXPECT_TRUE(facts.disks[2].read_only);
  EXPECT_EQ(facts.disks[3].source, "rbd:pool/image");
  EXPECT_FALSE(facts.disks[3].local_file);
  EXPECT_TRUE(facts.refusals.empty());
  EXPECT_NO_THROW(refuse_unsupported(facts));
}

TEST(DomainXml, FindsTheMonitorOfItsOwn) {
  const std::string line =
      "<qemu:commandline><qemu:arg value='-chardev'/><qemu:arg "
      "value='socket,id=mhv,path=/run/x.sock,server=on,wait=off'/></qemu:commandline>";
  EXPECT_EQ(parse_domain_xml(domain(kDisk, line)).own_monitor, "/run/x.sock");
  const std::string other = "<qemu:commandline><qemu:arg value='socket,id=mhv2,path=/run/x.sock'/></qemu:commandline>";
  EXPECT_EQ(parse_domain_xml(domain(kDisk, other)).own_monitor, "");
  const std::string last = "<qemu:commandline><qemu:arg value='socket,path=/run/y.sock,id=mhv'/></qemu:commandline>";
  EXPECT_EQ(parse_domain_xml(domain(kDisk, last)).own_monitor, "/run/y.sock");
}

TEST(DomainXml, RefusesWhatWritesMemoryUnseen) {
  expect_refusal(domain("<interface type='vhostuser'><target dev='vhu0'/></interface>"), "interface vhu0 is vhost-user");
  expect_refusal(domain("<interface type='hostdev'><alias name='net0'/></interface>"), "net0");
  expect_refusal(domain("<hostdev mode='subsystem' type='pci'/>"), "host device (pci)");
  expect_refusal(domain("<disk type='vhostuser'><target dev='vdz'/></disk>"), "disk vdz");
  expect_refusal(domain("<filesystem type='mount'><driver type='virtiofs'/></filesystem>"), "virtiofs");
  expect_refusal(domain("<memballoon model='virtio' freePageReporting='on'/>"), "free pages");
  expect_refusal(domain("<memory model='virtio-mem'><target/></memory>"), "virtio-mem");
  expect_refusal(domain("", "<memoryBacking><hugepages/></memoryBacking>"), "huge pages");
  expect_refusal(domain("", "<launchSecurity type='sev'/>"), "encrypted");
  expect_refusal(domain("", "", "xen"), "\"xen\"");
  expect_refusal(domain("", "<qemu:commandline><qemu:arg value='vhost-user-blk-pci,chardev=c'/></qemu:commandline>"), "vhost-user-blk-pci");
}

TEST(DomainXml, FindsTheTapsOfNics) {
  const std::string bridge = "<interface type='bridge'><target dev='tap0'/></interface>";
  const std::string network = "<interface type='network'><target dev='vnet7'/></interface>";
  const auto taps = [](const std::string& devices) { return taps_of(parse_domain_xml(domain(devices)).nics); };
  EXPECT_THAT(taps(bridge + network + "<interface type='ethernet'><target dev='tap1'/></interface>"),
              ::testing::ElementsAre("tap0", "vnet7", "tap1"));
  EXPECT_THAT(taps("<interface type='bridge'/>"), ::testing::IsEmpty());  // it does not run
  for (const std::string type : {"user", "direct", "vhostuser", "hostdev"}) {
    try {
      taps(bridge + "<interface type='" + type + "'><target dev='x0'/></interface>");
      FAIL() << type;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kUnsupported);
      EXPECT_THAT(error.what(), HasSubstr("interface x0 (" + type + ") has no tap"));
    }
  }
}

TEST(DomainXml, RejectsWhatIsNoDomain) {
  EXPECT_THROW(parse_domain_xml(""), Error);
  EXPECT_THROW(parse_domain_xml("<network/>"), Error);
  EXPECT_THROW(parse_domain_xml("<domain"), Error);
  EXPECT_THROW(parse_domain_xml(std::string(5u << 20, ' ')), Error);
}

TEST(DiskPolicy, RequiredNamesTheDiskAndTheWaysOut) {
  const DomainFacts facts = parse_domain_xml(domain(std::string(kDisk) + kCdrom + kRaw));
  try {
    check_disk_policy(facts.disks, protocol::DISKS_REQUIRED);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kUnsupported);
    EXPECT_THAT(error.what(), HasSubstr("disk vdb (raw, /dev/sdb)"));
    EXPECT_THAT(error.hint(), HasSubstr("mhv:checkpoint_disks=best-effort"));
    EXPECT_THAT(error.hint(), HasSubstr("qcow2"));
  }
  EXPECT_NO_THROW(check_disk_policy(facts.disks, protocol::DISKS_BEST_EFFORT));
  EXPECT_NO_THROW(check_disk_policy(facts.disks, protocol::DISKS_NONE));
  EXPECT_NO_THROW(check_disk_policy(parse_domain_xml(domain(std::string(kDisk) + kCdrom)).disks, protocol::DISKS_REQUIRED));
}

}  // namespace
}  // namespace mhv::mhvd
