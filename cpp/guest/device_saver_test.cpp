// Against a real, stock QEMU.
#include "guest/device_saver.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "base/error.h"
#include "guest/fixture_test.h"
#include "guest/machine.h"

namespace mhv::guest {
namespace {

using testing::have_qemu;
using testing::Memory;
using testing::read_all;
using testing::TempFolder;
using testing::TestQemu;

constexpr auto kLongForAGuest = std::chrono::milliseconds(100);

class DeviceSaverTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!have_qemu()) GTEST_SKIP() << "no qemu-system-x86_64";
    qemu_ = std::make_unique<TestQemu>(folder_, "a", std::vector<std::string>{}, Memory::kShared);
    ram_.emplace(qemu_->open_ram());
  }
  std::uint32_t counter() { return qemu_->counters(*ram_).back(); }
  void expect_goes_on() { qemu_->wait_until_counter_passes(*ram_, counter() + 1000); }

  TempFolder folder_;
  std::unique_ptr<TestQemu> qemu_;
  std::optional<Ram> ram_;
};

TEST_F(DeviceSaverTest, TheGuestStandsStillUntilTheStateIsRead) {
  Machine machine(qemu_->qmp());
  machine.resume();
  expect_goes_on();
  DeviceSaver saver(qemu_->qmp());
  for (int round = 0; round < 20; ++round) {
    DeviceSaver::Save save(saver);
    const auto memory = read_all(*ram_);
    const auto counted = qemu_->counters(*ram_);
    if (round == 0) std::this_thread::sleep_for(kLongForAGuest);
    EXPECT_EQ(qemu_->counters(*ram_), counted);
    EXPECT_TRUE(read_all(*ram_) == memory);
    const auto state = save.finish();
    EXPECT_GT(state.size(), 4096u);
    expect_goes_on();
    EXPECT_TRUE(machine.running());
    if (round != 19) continue;
    // What was copied and what was saved are of one moment.
    machine.stop();
    machine.stage_load(state, qemu_->machine(), "point");
    machine.load("point", {});
    for (std::uint32_t i = 0; i < ram_->pages(); ++i) ram_->write({i}, std::span(memory).subspan(std::size_t{i} * kPageSize, kPageSize));
    machine.resume();
    qemu_->wait_until_counter_passes(*ram_, counted.front() + 1000);
  }
}

TEST_F(DeviceSaverTest, AGuestThatStoodStillStaysSo) {
  Machine machine(qemu_->qmp());
  machine.resume();
  expect_goes_on();
  machine.stop();
  const auto counted = qemu_->counters(*ram_);
  DeviceSaver saver(qemu_->qmp());
  EXPECT_GT(DeviceSaver::Save(saver).finish().size(), 4096u);
  EXPECT_FALSE(machine.running());
  std::this_thread::sleep_for(kLongForAGuest);
  EXPECT_EQ(qemu_->counters(*ram_), counted);
}

TEST_F(DeviceSaverTest, TheGuestGoesOnWhenNobodyWantsTheState) {
  Machine machine(qemu_->qmp());
  machine.resume();
  DeviceSaver saver(qemu_->qmp());
  for (int round = 0; round < 3; ++round) {
    { const DeviceSaver::Save save(saver); }
    expect_goes_on();
    EXPECT_GT(DeviceSaver::Save(saver).finish().size(), 4096u);
    EXPECT_EQ(qemu_->qmp().call("query-fdsets").size(), 1u);
    expect_goes_on();
  }
}

// As kill -9 does it: nobody tells QEMU anything, the kernel closes what the process had.
TEST_F(DeviceSaverTest, TheGuestGoesOnWhenTheEngineDiesInBetween) {
  Machine machine(qemu_->qmp());
  machine.resume();
  expect_goes_on();
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const Fd told = Fd::own(ends[0]);
  Fd tells = Fd::own(ends[1]);
  const pid_t engine = ::fork();
  ASSERT_GE(engine, 0);
  if (engine == 0) {
    DeviceSaver saver(qemu_->qmp());
    const DeviceSaver::Save save(saver);
    static_cast<void>(::write(tells.get(), "!", 1));
    for (;;) ::pause();
  }
  tells.close();
  std::byte word{};
  ASSERT_EQ(::read(told.get(), &word, 1), 1);
  const auto counted = qemu_->counters(*ram_);
  std::this_thread::sleep_for(kLongForAGuest);
  EXPECT_EQ(qemu_->counters(*ram_), counted);
  ASSERT_EQ(::kill(engine, SIGKILL), 0);
  ASSERT_EQ(::waitpid(engine, nullptr, 0), engine);
  expect_goes_on();
}

TEST_F(DeviceSaverTest, SaysThatQemuHasEnded) {
  DeviceSaver saver(qemu_->qmp());
  saver.prepare();
  qemu_->kill_and_wait();
  try {
    DeviceSaver::Save(saver).finish();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kGone) << error.what();
  }
}

// More than any pipe holds at once: QEMU waits again and again, and the state is whole.
TEST_F(DeviceSaverTest, AStateMayBeLargerThanThePipe) {
  std::vector<std::string> devices;
  for (int bridge = 0; bridge < 4; ++bridge) {
    const std::string name = "b" + std::to_string(bridge);
    devices.insert(devices.end(), {"-device", "pci-bridge,id=" + name + ",chassis_nr=" + std::to_string(bridge + 1)});
    for (int slot = 1; slot < 31; ++slot) {
      const std::string port = "p" + std::to_string(bridge) + "-" + std::to_string(slot);
      devices.insert(devices.end(), {"-netdev", "hubport,hubid=0,id=" + port, "-device",
                                     "virtio-net-pci,romfile=,netdev=" + port + ",bus=" + name});
    }
  }
  TestQemu large(folder_, "large", devices, Memory::kShared);
  Machine machine(large.qmp());
  machine.resume();
  DeviceSaver saver(large.qmp());
  std::vector<std::byte> first;
  {
    DeviceSaver::Save save(saver);
    first = save.finish();
  }
  ASSERT_GT(first.size(), std::size_t{1} << 20);
  machine.stop();
  const auto state = testing::save(large.qmp());
  EXPECT_EQ(state.size(), first.size());
  machine.stage_load(state, large.machine(), "point");
  machine.load("point", {});
}

}  // namespace
}  // namespace mhv::guest
