#include "replay/replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/code_of_test.h"
#include "base/temp_folder_test.h"
#include "replay/recorded_guest.h"

namespace mhv::replay {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::ElementsAre;
using ::testing::Field;

// Three checkpoints of a guest of 64 MiB, with a device's memory before it.
class ReplayTest : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kDevicePages = 16, kRamPages = 16384;

  ReplayTest() {
    const auto store = store::Store::open(recording());
    std::string parent;
    for (const std::uint32_t epoch : {1u, 2u, 3u}) {
      store::Writer writer = store->begin(parent);
      std::array<std::byte, kPageSize> page{};
      page[0] = std::byte(epoch);
      writer.put({3}, page);  // the device's
      for (std::uint32_t i = 0; i < 600 * (epoch - 1); ++i) writer.put({kDevicePages + 512 + i}, page);
      writer.put({kDevicePages + 1}, page);
      writer.put_device_state({});
      store::CheckpointInfo info;
      info.id = "00000000-0000-4000-8000-00000000000" + std::to_string(epoch);
      info.parent = parent;
      info.machine = "pc-q35-10.0";
      info.blocks = {{"vga.vram", kDevicePages * kPageSize}, {"pc.ram", kRamPages * kPageSize}};
      parent = writer.commit(info).id;
    }
  }
  std::string recording() const { return folder_.file("recording"); }

  std::vector<Json> run(Options options) {
    std::vector<Json> said;
    options.recording = recording();
    replay::run(options, [&](const Json& what) { said.push_back(what); });
    return said;
  }
  Options heatmap() const { return {MHV_HEATMAP_PACKAGE, "", R"({"event_every": 3})", {{"heat", R"({"limit": 1})"}}}; }

  TempFolder folder_;
};

TEST_F(ReplayTest, EachCheckpointIsAnEpoch) {
  const std::vector<Json> said = run(heatmap());
  std::vector<std::uint64_t> written;
  for (const Json& one : said) {
    if (one.contains("epoch")) written.push_back(one["written_pages"]);
  }
  EXPECT_THAT(written, ElementsAre(1, 601, 1201));
  // The third epoch's event, and the answer: what it wrote is from 2 MiB on, twice, for of the first it knows no memory.
  const auto is = [](const char* what) { return [what](const Json& one) { return one.contains(what); }; };
  EXPECT_EQ(std::ranges::count_if(said, is("event")), 1);
  ASSERT_TRUE(said.back().contains("answer")) << said.back();
  EXPECT_EQ(said.back()["answer"]["result"].size(), 1u);
}

TEST_F(ReplayTest, ShowsTheMemoryOfEachCheckpoint) {
  RecordedGuest guest(recording());
  for (const int epoch : {1, 2, 3}) {
    ASSERT_TRUE(guest.next());
    EXPECT_EQ(guest.written_all(), epoch == 1);
    std::array<std::byte, 2> there{};
    EXPECT_TRUE(guest.read(kPageSize, there));
    EXPECT_EQ(there[0], std::byte(epoch));
    EXPECT_TRUE(guest.read(512 * kPageSize, there));
    EXPECT_EQ(there[0], std::byte(epoch == 1 ? 0 : epoch));
    EXPECT_FALSE(guest.read(kRamPages * kPageSize - 1, there));
  }
  EXPECT_THAT(guest.written(),
              ElementsAre(::testing::AllOf(Field(&ring::PageRange::start, kPageSize), Field(&ring::PageRange::bytes, kPageSize)),
                          Field(&ring::PageRange::bytes, 1200 * kPageSize)));
  EXPECT_FALSE(guest.next());
}

TEST_F(ReplayTest, SaysWhatIsWrong) {
  Options options = heatmap();
  options.configuration = R"({"event_every": "often"})";
  EXPECT_EQ(code_of([&] { run(options); }), Code::kInvalid);
  options = heatmap();
  options.at_the_end = {{"nonsense"}};
  EXPECT_THROW(run(options), Error);
  options.recording = folder_.file("nothing");
  EXPECT_EQ(code_of([&] { replay::run(options, [](const Json&) {}); }), Code::kInvalid);
  options.package = folder_.file("broken");
  std::filesystem::create_directories(options.package);
  std::filesystem::copy(std::string(MHV_HEATMAP_PACKAGE) + "/manifest.json", options.package + "/manifest.json");
  std::ofstream(options.package + "/mhv-layer-heatmap") << "#!/bin/sh\nexit 3\n";
  std::filesystem::permissions(options.package + "/mhv-layer-heatmap", std::filesystem::perms::all);
  try {
    run(options);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kUnavailable);
    EXPECT_THAT(error.what(), ::testing::AnyOf(::testing::HasSubstr("status 3"), ::testing::HasSubstr("ended")));
  }
}

}  // namespace
}  // namespace mhv::replay
