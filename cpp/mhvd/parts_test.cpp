// The pure parts: requests from the wire, guest.conf, userfaultfd records, RAM blocks and disks of a QEMU, peers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <limits>

#include "base/error.h"
#include "base/temp_folder_test.h"
#include "mhvd/attach.h"
#include "mhvd/guest_conf.h"
#include "mhvd/request_check.h"
#include "mhvd/server.h"
#include "mhvd/uffd_record.h"

namespace mhv::mhvd {
namespace {

constexpr const char* kUuid = "11111111-2222-3333-4444-555555555555";

bool accepted(const protocol::Request& request, std::size_t fds = 0) {
  try {
    check_request(request, fds);
    return true;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kInvalid);
    return false;
  }
}

protocol::Request attach_request() {
  protocol::Request request;
  request.mutable_attach()->set_guest("s1");
  request.mutable_attach()->mutable_options()->add_services("checkpoint");
  return request;
}

TEST(Requests, LimitsOfAttach) {
  EXPECT_TRUE(accepted(attach_request()));
  EXPECT_FALSE(accepted(attach_request(), 1));
  for (const double bad : {-1.0, 0.001, 1e9, std::numeric_limits<double>::infinity(), std::nan("")}) {
    auto request = attach_request();
    request.mutable_attach()->mutable_options()->set_checkpoint_interval_s(bad);
    EXPECT_FALSE(accepted(request)) << bad;
  }
  auto keep = attach_request();
  keep.mutable_attach()->mutable_options()->set_checkpoint_keep(kKeepMax + 1);
  EXPECT_FALSE(accepted(keep));
  for (const double bad : {-1.0, 0.05, 100.5, std::nan("")}) {
    auto request = attach_request();
    request.mutable_attach()->mutable_options()->set_checkpoint_overhead_max(bad);
    EXPECT_FALSE(accepted(request)) << bad;
  }
  auto by_age = attach_request();
  by_age.mutable_attach()->mutable_options()->set_checkpoint_keep_policy("1m:all,1h:1s,1d:1m");
  EXPECT_TRUE(accepted(by_age));
  by_age.mutable_attach()->mutable_options()->set_checkpoint_keep_policy("1h:1s,1m:all");
  EXPECT_FALSE(accepted(by_age));
  auto policy = attach_request();
  policy.mutable_attach()->mutable_options()->set_checkpoint_disks(static_cast<protocol::DiskPolicy>(9));
  EXPECT_FALSE(accepted(policy));
  auto none = attach_request();
  none.mutable_attach()->mutable_options()->clear_services();
  EXPECT_FALSE(accepted(none));
  for (const char* const bad : {"", "Warp", "-warp", "../warp", "checkpoint", "abcdefghijabcdefghijabcdefghijabc"}) {
    auto service = attach_request();
    service.mutable_attach()->mutable_options()->add_services(bad);
    EXPECT_FALSE(accepted(service)) << bad;
  }
  for (const char* const bad : {"", "[]", "{", "{\"a\":"}) {
    auto configured = attach_request();
    (*configured.mutable_attach()->mutable_options()->mutable_configurations())["checkpoint"] = bad;
    EXPECT_FALSE(accepted(configured)) << bad;
  }
  auto configured = attach_request();
  (*configured.mutable_attach()->mutable_options()->mutable_configurations())["checkpoint"] = R"({"a": {"b": 1}})";
  EXPECT_TRUE(accepted(configured));
  (*configured.mutable_attach()->mutable_options()->mutable_configurations())["warp"] = "{}";
  EXPECT_FALSE(accepted(configured));
  for (const std::string& name : {std::string(), std::string(256, 'x'), std::string("a/b"), std::string("a\nb")}) {
    auto request = attach_request();
    request.mutable_attach()->set_guest(name);
    EXPECT_FALSE(accepted(request)) << name;
  }
}

TEST(Requests, IdsHoldsAndDescriptors) {
  protocol::Request request;
  EXPECT_FALSE(accepted(request));
  request.mutable_checkpoint_show()->set_guest("s1");
  request.mutable_checkpoint_show()->set_id("../../etc/passwd");
  EXPECT_FALSE(accepted(request));
  request.mutable_checkpoint_show()->set_id(kUuid);
  EXPECT_TRUE(accepted(request));
  request.mutable_checkpoint_export()->set_guest("s1");
  request.mutable_checkpoint_export()->set_id(kUuid);
  EXPECT_FALSE(accepted(request));
  EXPECT_TRUE(accepted(request, 1));
  request.mutable_checkpoint_export()->set_format(protocol::EXPORT_ELF_CORE);
  EXPECT_TRUE(accepted(request, 1));
  request.mutable_checkpoint_export()->set_format(static_cast<protocol::ExportFormat>(99));
  EXPECT_FALSE(accepted(request, 1));
  request.mutable_layer_install();
  EXPECT_FALSE(accepted(request));
  EXPECT_TRUE(accepted(request, 1));
  request.mutable_checkpoint_export_disk()->set_guest("s1");
  request.mutable_checkpoint_export_disk()->set_id(kUuid);
  for (const std::string& target : {std::string("vda"), std::string("A-b_c.9"), std::string(64, 'v')}) {
    request.mutable_checkpoint_export_disk()->set_target(target);
    EXPECT_TRUE(accepted(request, 1)) << target;
    EXPECT_FALSE(accepted(request)) << target;
    EXPECT_FALSE(accepted(request, 2)) << target;
  }
  for (const std::string& target : {std::string(), std::string(65, 'v'), std::string("../vda"), std::string("vd a"), std::string("vd\n")}) {
    request.mutable_checkpoint_export_disk()->set_target(target);
    EXPECT_FALSE(accepted(request, 1)) << target;
  }
  request.mutable_checkpoint_export_disk()->set_target("vda");
  EXPECT_EQ(guest_of(request), "s1");
  request.mutable_checkpoint_export_disk()->set_id("x");
  EXPECT_FALSE(accepted(request, 1));
  request.mutable_hold()->set_guest("s1");
  EXPECT_FALSE(accepted(request));
  request.mutable_hold()->set_timeout_s(1);
  EXPECT_TRUE(accepted(request));
  request.mutable_status();
  EXPECT_TRUE(accepted(request));
  EXPECT_THROW(parse_request("\xff\xff\xff"), Error);
}

TEST(GuestConf, RoundTripsAndRejectsAnotherGuests) {
  const TempFolder folder;
  protocol::GuestConf conf;
  conf.set_uuid(kUuid);
  conf.set_name("s1");
  conf.mutable_options()->add_services("checkpoint");
  save_guest_conf(folder.file(kUuid), conf);
  std::filesystem::create_directory(folder.file("not-a-uuid"));
  EXPECT_EQ(load_guest_conf(folder.file(kUuid), kUuid).name(), "s1");
  EXPECT_EQ(list_guests(folder.path()), std::vector<std::string>{kUuid});
  EXPECT_THROW(load_guest_conf(folder.file(kUuid), "other"), Error);
  EXPECT_THROW(parse_guest_conf("\xff\xff", kUuid), Error);
  EXPECT_THROW(parse_guest_conf(std::string(100'000, 'x'), kUuid), Error);
  EXPECT_TRUE(list_guests(folder.file("nothing")).empty());
}

TEST(GuestConf, Uuids) {
  EXPECT_TRUE(is_uuid(kUuid));
  for (const char* bad :
       {"", "s1", "11111111-2222-3333-4444-55555555555", "11111111-2222-3333-4444-55555555555G", "1111111122223333-4444-5555555555555"}) {
    EXPECT_FALSE(is_uuid(bad)) << bad;
  }
}

TEST(UffdRecord, RoundTrips) {
  const UffdRecord record{{123, 456}, 7, true};
  EXPECT_EQ(parse_uffd_record("123 456 7 1\n"), record);
  for (const char* bad : {"", "123 456 7", "0 456 7 1", "123 456 -1 1", "123 456 7 2", "123 456 7 1 9", "a b c d"}) {
    EXPECT_EQ(parse_uffd_record(bad), std::nullopt) << bad;
  }
}

TEST(RamblockRecord, IsOfOneProcess) {
  const TempFolder folder;
  const std::string path = folder.file("record");
  EXPECT_FALSE(load_ramblock_record(path, {123, 456}));
  save_ramblock_record(path, {123, 456}, "Block Name\npc.ram\n");
  EXPECT_EQ(load_ramblock_record(path, {123, 456}), "Block Name\npc.ram\n");
  EXPECT_FALSE(load_ramblock_record(path, {123, 45}));
  EXPECT_FALSE(load_ramblock_record(path, {12, 456}));
}

guest::MapsEntry mapping(std::uint64_t start, std::uint64_t end, std::uint64_t offset, bool shared, const std::string& path) {
  guest::MapsEntry entry;
  entry.start = start;
  entry.end = end;
  entry.offset = offset;
  entry.readable = entry.writable = true;
  entry.shared = shared;
  entry.path = path;
  return entry;
}

TEST(Blocks, SharedFilesAndAnonymousMemory) {
  const std::vector<guest::MapsEntry> maps{mapping(0x10000, 0x30000, 0x5000, true, "/memfd:pc.ram (deleted)"),
                                           mapping(0x30000, 0x40000, 0x25000, true, "/memfd:pc.ram (deleted)"),
                                           mapping(0x50000, 0x60000, 0, false, "")};
  const auto plan = plan_blocks({{"pc.ram", 0x20000, 0x18000, false}, {"vga.vram", 0x8000, 0x50000, false}}, maps);
  ASSERT_EQ(plan.size(), 2u);
  EXPECT_TRUE(plan[0].shared);
  EXPECT_EQ(plan[0].fd_offset, 0xd000u);
  EXPECT_EQ(plan[0].map_start, 0x10000u);
  EXPECT_EQ(plan[0].map_end, 0x30000u);
  EXPECT_FALSE(plan[1].shared);
  EXPECT_EQ(plan[1].fd_offset, 0x50000u);
  EXPECT_THROW(plan_blocks({{"gone", 0x1000, 0x100000, false}}, maps), Error);
  EXPECT_THROW(plan_blocks({{"pc.ram", 0x1000, 0x10000, false}}, {mapping(0x10000, 0x30000, 0, true, "/dev/hugepages/x")}), Error);
  // A hole in the middle of a block: only /proc/PID/mem sees what is there.
  EXPECT_FALSE(plan_blocks({{"pc.ram", 0x20000, 0x28000, false}}, {maps[0], mapping(0x30000, 0x50000, 0, true, "/other")})[0].shared);
}

TEST(Disks, FindTheirNodes) {
  DomainDisk disk;
  disk.target = "vda";
  disk.alias = "virtio-disk1";
  disk.format = "qcow2";
  DomainDisk other = disk;
  other.target = "vdb";
  other.alias = "virtio-disk11";
  const auto block = nlohmann::json::parse(R"([
    {"device": "", "qdev": "/machine/peripheral/virtio-disk11/virtio-backend", "inserted": {"node-name": "libvirt-2-format"}},
    {"device": "", "qdev": "/machine/peripheral/virtio-disk1/virtio-backend", "inserted": {"node-name": "libvirt-1-format"}},
    {"device": "floppy0"}])");
  const auto disks = resolve_disks({disk, other}, block);
  ASSERT_EQ(disks.size(), 2u);
  EXPECT_EQ(disks[0].node(), "libvirt-1-format");
  EXPECT_EQ(disks[1].node(), "libvirt-2-format");
}

TEST(Peers, RootOurselvesAndTheGroup) {
  EXPECT_TRUE(may_speak({0, 0, {}}, 100, 200));
  EXPECT_TRUE(may_speak({100, 1, {}}, 100, 200));
  EXPECT_TRUE(may_speak({7, 200, {}}, 100, 200));
  EXPECT_TRUE(may_speak({7, 1, {5, 200}}, 100, 200));
  EXPECT_FALSE(may_speak({7, 1, {5}}, 100, 200));
  EXPECT_FALSE(may_speak({7, static_cast<gid_t>(-1), {}}, 100, static_cast<gid_t>(-1)));
}

TEST(Peers, AreReadFromTheSocket) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()), 0);
  const Fd a = Fd::own(ends[0]);
  const Fd b = Fd::own(ends[1]);
  EXPECT_EQ(peer_of(a).uid, ::getuid());
}

}  // namespace
}  // namespace mhv::mhvd
