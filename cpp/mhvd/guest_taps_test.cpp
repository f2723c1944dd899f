#include "mhvd/guest_taps.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/code_of_test.h"
#include "base/temp_folder_test.h"

namespace mhv::mhvd {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// What mhv-tapper was asked, in order.
class FakeTapper : public Hypervisor {
 public:
  std::vector<std::string> taps(const Domain&) override { return nics; }
  std::vector<Fd> interpose(const ProcessId& process, const std::string& tap) override {
    record_then = record_of();
    if (tap == refuses) throw Error(Code::kUnsupported, tap + " is a port of no bridge");
    asked.push_back("+" + tap + " of " + std::to_string(process.pid));
    std::vector<Fd> out;
    out.push_back(Fd::memory("from"));
    out.push_back(Fd::memory("to"));
    return out;
  }
  void undo_interpose(const ProcessId& process, const std::string& tap) override {
    if (away) throw Error(Code::kUnavailable, "mhv-tapper does not answer");
    asked.push_back("-" + tap + " of " + std::to_string(process.pid));
  }
  std::vector<std::string> take() { return std::exchange(asked, {}); }
  std::string record_of() const {
    std::ifstream in(record);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  Domain find(const std::string&) override { throw Error(Code::kInternal, ""); }
  void check(const Domain&, const protocol::ServiceOptions&) override {}
  Attachment attach(const Domain&, const protocol::ServiceOptions&) override { return {}; }
  std::optional<Attachment> attach_memory(const Domain&) override { return std::nullopt; }
  Fd open_memory(const ProcessId&, std::pair<std::uint64_t, std::uint64_t>) override { return {}; }
  void start_paused(const Domain&) override {}
  void destroy(const Domain&) noexcept override {}
  protocol::ClockMoment keep_clock(const ProcessId&, const protocol::ClockMoment&, std::chrono::nanoseconds) override { return {}; }
  void tracking_is_on(const std::string&) override {}
  void tracking_is_off(const std::string&) override {}

  std::vector<std::string> nics{"tap0", "tap1"};
  std::string refuses;
  bool away = false;
  std::vector<std::string> asked;
  std::string record, record_then;
};

class GuestTapsTest : public ::testing::Test {
 protected:
  GuestTapsTest() { host_.record = path_; }
  static Domain domain(int pid = 7) { return {"uuid", "s1", ProcessId{pid, 70}}; }
  static std::vector<std::string> added(const GuestTaps::Change& change) {
    std::vector<std::string> out;
    for (const auto& tap : change.message.added()) out.push_back(tap.name());
    return out;
  }

  TempFolder folder_;
  const std::string path_ = folder_.file("g.taps");
  FakeTapper host_;
};

TEST_F(GuestTapsTest, EachTapOnceForAWorker) {
  GuestTaps taps(host_, path_);
  const auto first = taps.interpose(domain());
  EXPECT_THAT(added(first), ElementsAre("tap0", "tap1"));
  EXPECT_EQ(first.fds.size(), 4u);
  EXPECT_EQ(first.message.added(1).nic(), 1u);
  EXPECT_EQ(first.message.added(1).to_guest_fd(), 3u);
  EXPECT_TRUE(taps.interpose(domain()).empty());
  taps.taken_back();
  EXPECT_THAT(added(taps.interpose(domain())), ElementsAre("tap0", "tap1"));
  host_.take();
  taps.undo();
  EXPECT_THAT(host_.take(), ElementsAre("-tap0 of 7", "-tap1 of 7"));
  EXPECT_FALSE(taps.any());
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(GuestTapsTest, TheRecordIsThereFirstAndGoesLast) {
  GuestTaps taps(host_, path_);
  host_.refuses = "tap1";
  EXPECT_EQ(code_of([&] { taps.interpose(domain()); }), Code::kUnsupported);
  EXPECT_EQ(host_.record_then, "7 70\ntap0\ntap1\n");
  EXPECT_EQ(host_.record_of(), "7 70\ntap0\ntap1\n");
  host_.away = true;
  EXPECT_EQ(code_of([&] { taps.undo(); }), Code::kUnavailable);
  EXPECT_EQ(host_.record_of(), "7 70\ntap0\ntap1\n");
  host_.away = false;
  GuestTaps after_a_kill(host_, path_);
  EXPECT_EQ(after_a_kill.process(), (ProcessId{7, 70}));
  after_a_kill.undo();
  EXPECT_EQ(host_.record_of(), "");
}

TEST_F(GuestTapsTest, ClosedOnesAreSwappedAndNobodys) {
  GuestTaps taps(host_, path_);
  host_.nics = {"tap0"};
  taps.interpose(domain());
  host_.nics = {"tap0", "tap1"};
  host_.take();
  EXPECT_TRUE(taps.at_worker());
  taps.close(domain());
  EXPECT_FALSE(taps.at_worker());
  EXPECT_THAT(host_.take(), ElementsAre("+tap1 of 7"));  // the worker's is swapped already
  taps.close(domain());
  EXPECT_THAT(host_.take(), IsEmpty());
  EXPECT_EQ(host_.record_of(), "7 70\ntap0\ntap1\n");
  EXPECT_THAT(added(taps.interpose(domain())), ElementsAre("tap0", "tap1"));
  taps.close(domain(8));
  EXPECT_THAT(host_.take(), ElementsAre("+tap0 of 7", "+tap1 of 7", "-tap0 of 7", "-tap1 of 7", "+tap0 of 8", "+tap1 of 8"));
}

TEST_F(GuestTapsTest, WhatCouldNotBeClosedIsTriedAgain) {
  GuestTaps taps(host_, path_);
  host_.refuses = "tap1";
  EXPECT_EQ(code_of([&] { taps.close(domain()); }), Code::kUnsupported);
  EXPECT_EQ(host_.record_of(), "7 70\ntap0\ntap1\n");
  host_.refuses.clear();
  host_.take();
  taps.close(domain());
  EXPECT_THAT(host_.take(), ElementsAre("+tap1 of 7"));
}

TEST_F(GuestTapsTest, NicsComeAndGo) {
  GuestTaps taps(host_, path_);
  taps.interpose(domain());
  host_.take();
  host_.nics = {"tap1", "tap2"};
  const auto change = taps.interpose(domain());
  EXPECT_THAT(host_.take(), ElementsAre("-tap0 of 7", "+tap2 of 7"));
  EXPECT_THAT(added(change), ElementsAre("tap2"));
  EXPECT_EQ(change.message.removed(0), "tap0");
  EXPECT_EQ(host_.record_of(), "7 70\ntap1\ntap2\n");
}

TEST_F(GuestTapsTest, WhatAFormerQemuLeftIsUndoneFirst) {
  GuestTaps(host_, path_).interpose(domain(7));
  host_.take();
  GuestTaps taps(host_, path_);
  taps.interpose(domain(8));
  EXPECT_THAT(host_.take(), ElementsAre("-tap0 of 7", "-tap1 of 7", "+tap0 of 8", "+tap1 of 8"));
  EXPECT_EQ(host_.record_of(), "8 70\ntap0\ntap1\n");
}

TEST_F(GuestTapsTest, StrangersAreUndone) {
  GuestTaps(host_, path_).interpose(domain());
  GuestTaps(host_, folder_.file("known.taps")).interpose(domain(9));
  std::ofstream(folder_.file("other.state")) << "x";
  host_.take();
  undo_strangers(host_, folder_.file(""), {"known"});
  EXPECT_THAT(host_.take(), ElementsAre("-tap0 of 7", "-tap1 of 7"));
  EXPECT_TRUE(std::filesystem::exists(folder_.file("known.taps")));
}

TEST(TapRecordFile, OthersAreNone) {
  EXPECT_EQ(parse_tap_record("7 70\ntap0\n"), (TapRecord{{7, 70}, {"tap0"}}));
  EXPECT_FALSE(parse_tap_record(""));
  EXPECT_FALSE(parse_tap_record("x y"));
  EXPECT_FALSE(parse_tap_record("-7 70\ntap0"));
  EXPECT_FALSE(parse_tap_record("7 70\n" + std::string(16, 't')));
}

}  // namespace
}  // namespace mhv::mhvd
