#include "export/control.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

#include "base/error.h"
#include "base/frame.h"
#include "disk/disk_testing.h"

namespace mhv::disk {
namespace {

constexpr const char* kOne = "00112233-4455-6677-8899-aabbccddeeff";

struct Served {
  explicit Served(std::uint64_t bytes = 0) {
    memory.base.now.resize(64 * kBlockBytes);
    memory.base.durable = memory.base.now;
    JournalOptions options;
    options.segment_blocks = 256;
    options.segments_max = 12;
    disk = std::make_unique<Disk>(
        [this, options] {
          return std::make_unique<Journal>(std::make_unique<MemoryFolder>(memory), std::make_unique<MemoryImage>(memory), options);
        },
        bytes);
  }
  void write(int value) {
    disk->with_open([&](Journal& journal) { journal.write(Bytes(kBlockBytes, static_cast<std::byte>(value)), 0); });
  }
  Bytes first_block() {
    Bytes out(kBlockBytes);
    disk->with_open([&](Journal& journal) { journal.read(out, 0); });
    return out;
  }
  MemoryDisk memory;
  std::unique_ptr<Disk> disk;
  const std::string path = testing::TempDir() + "control-" + std::to_string(::getpid());
};

wire::Request named(const std::string& verb) { return request_for(verb, {kOne}); }

Code code_of(ControlClient& client, const wire::Request& request) {
  try {
    client.call(request);
  } catch (const Error& error) {
    return error.code();
  }
  return Code::kInternal;
}

TEST(Control, MarksAndGoesBack) {
  Served disk;
  const ControlServer server(*disk.disk, disk.path);
  ControlClient client(disk.path);
  disk.write(1);
  client.call(named("mark"));
  disk.write(2);
  client.call(named("rollback"));
  EXPECT_EQ(disk.first_block(), Bytes(kBlockBytes, std::byte{1}));
  const wire::Reply list = client.call(named("list"));
  ASSERT_EQ(list.names_size(), 1);
  EXPECT_EQ(format_name(name_from_bytes(list.names(0))), kOne);
  client.call(named("sync"));
  const wire::Figures figures = client.call(named("stat")).figures();
  EXPECT_EQ(figures.marks(), 1u);
  EXPECT_EQ(figures.synced_entries(), figures.entries());
  EXPECT_EQ(client.call(named("drop")).names_size(), 1);
  EXPECT_EQ(client.call(named("drop")).names_size(), 0) << "unknown names are passed over";
  EXPECT_TRUE(client.call(named("fold")).all_folded());
  EXPECT_EQ(std::memcmp(disk.memory.base.now.data(), Bytes(kBlockBytes, std::byte{1}).data(), kBlockBytes), 0);
}

TEST(Control, ErrorsKeepTheirCode) {
  Served disk;
  const ControlServer server(*disk.disk, disk.path);
  ControlClient client(disk.path);
  EXPECT_EQ(code_of(client, named("rollback")), Code::kNotFound);
  client.call(named("mark"));
  EXPECT_EQ(code_of(client, named("mark")), Code::kExists);
  EXPECT_EQ(code_of(client, named("fold")), Code::kBusy);
  wire::Request bad;
  bad.mutable_mark()->set_name("short");
  EXPECT_EQ(code_of(client, bad), Code::kInvalid);
  EXPECT_EQ(code_of(client, wire::Request()), Code::kInvalid);
  EXPECT_EQ(client.call(named("list")).names_size(), 1) << "the connection goes on";
}

TEST(Control, OneThatSendsNonsenseDoesNotDisturbOthers) {
  Served disk;
  const ControlServer server(*disk.disk, disk.path);
  ControlClient first(disk.path);
  first.call(named("mark"));
  EXPECT_EQ(serve(*disk.disk, "\xff\xff\xff").error().code(), static_cast<unsigned>(Code::kInvalid));
  ControlClient second(disk.path);
  EXPECT_EQ(second.call(named("list")).names_size(), 1);
  EXPECT_EQ(first.call(named("list")).names_size(), 1);
}

TEST(Control, WaitsForOpenAndEndsWithClose) {
  Served disk(64 * kBlockBytes);
  const ControlServer server(*disk.disk, disk.path);
  ControlClient client(disk.path);
  EXPECT_EQ(disk.disk->bytes(), 64 * kBlockBytes) << "known before the image is";
  EXPECT_EQ(code_of(client, named("mark")), Code::kUnavailable);
  std::thread guest([&] { disk.write(3); });  // held until the image is there
  client.call(named("open"));
  client.call(named("open"));
  guest.join();
  client.call(named("mark"));
  EXPECT_EQ(code_of(client, named("close")), Code::kBusy);
  client.call(named("drop"));
  EXPECT_TRUE(client.call(named("close")).all_folded());
  EXPECT_EQ(disk.memory.base.now[0], std::byte{3});
  EXPECT_TRUE(disk.memory.now.empty()) << "no journal is left";
  EXPECT_EQ(code_of(client, named("stat")), Code::kUnavailable);
  EXPECT_TRUE(client.call(named("close")).all_folded()) << "no error when it is closed";
}

TEST(Control, AnImageOfAnotherSizeIsRefused) {
  Served disk(65 * kBlockBytes);
  const ControlServer server(*disk.disk, disk.path);
  ControlClient client(disk.path);
  EXPECT_EQ(code_of(client, named("open")), Code::kInvalid);
  EXPECT_EQ(code_of(client, named("stat")), Code::kUnavailable);
}

TEST(Control, NamesAreUuids) {
  EXPECT_EQ(format_name(parse_name(kOne)), kOne);
  for (const char* bad : {"", "00112233445566778899aabbccddeeff", "00112233-4455-6677-8899-aabbccddeefg",
                          "0011223-34455-6677-8899-aabbccddeeff", "00112233-4455-6677-8899-aabbccddeeff0"}) {
    EXPECT_THROW(parse_name(bad), Error) << bad;
  }
}

}  // namespace
}  // namespace mhv::disk
