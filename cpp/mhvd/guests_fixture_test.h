// For tests of Guests: a worker that only speaks the protocol and a host without libvirt.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/temp_folder_test.h"
#include "mhvd/guests.h"

namespace mhv::mhvd::testing {

inline constexpr const char* kUuid = "11111111-2222-3333-4444-555555555555";
inline constexpr const char* kRefusedId = "00000000-0000-0000-0000-000000000000";  // to the fake worker

// A "QEMU" that does nothing, to be killed.
class FakeQemu {
 public:
  FakeQemu() : pid_(::fork()) {
    if (pid_ == 0) {
      ::pause();
      ::_exit(0);
    }
  }
  ~FakeQemu() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  ProcessId id() const { return *identify_process(pid_); }

 private:
  const pid_t pid_;
};

class FakeHypervisor : public Hypervisor {
 public:
  Domain find(const std::string& name) override {
    const std::lock_guard lock(mutex_);
    if (name != domain.name && name != domain.uuid) throw Error(Code::kNotFound, "no guest \"" + name + "\"", "look");
    Domain out = domain;
    if (out.process && identify_process(out.process->pid) != out.process) out.process.reset();
    return out;
  }
  void check(const Domain&, const protocol::ServiceOptions&) override {
    const std::lock_guard lock(mutex_);
    if (refuses) throw Error(Code::kUnsupported, "interface tap0 is vhost-user", "use a tap");
  }
  Attachment attach(const Domain& which, const protocol::ServiceOptions&) override {
    const std::lock_guard lock(mutex_);
    if (breaks) throw Error(Code::kInternal, "QEMU says what nobody expects");
    Attachment out;
    out.process = *which.process;
    out.own_monitor = true;
    out.up.set_kvm(kvm);
    out.up.set_uffd_is_new(!tracking);
    out.fds.push_back(Fd::memory("fake"));
    out.mappings.emplace_back(0x1000, 0x2000);
    return out;
  }
  void start_paused(const Domain&) override {
    qemu = std::make_unique<FakeQemu>();
    set_process(qemu->id());
  }
  std::optional<Attachment> attach_memory(const Domain&) override {
    const std::lock_guard lock(mutex_);
    if (!tracking) return std::nullopt;
    Attachment out;
    out.fds.push_back(Fd::memory("fake"));
    return out;
  }
  void destroy(const Domain&) noexcept override {
    set_process(std::nullopt);
    qemu.reset();
  }
  void tracking_is_on(const std::string&) override {
    const std::lock_guard lock(mutex_);
    tracking = true;
  }
  void tracking_is_off(const std::string&) override {
    const std::lock_guard lock(mutex_);
    tracking = false;
  }

  protocol::ClockMoment keep_clock(const ProcessId&, const protocol::ClockMoment& since, std::chrono::nanoseconds lost_max) override {
    const std::lock_guard lock(mutex_);
    clocks_.push_back({since.host_ns(), lost_max});
    if (clocks_fail_) throw Error(Code::kBusy, "QEMU is in no system call");
    protocol::ClockMoment out;
    out.set_host_ns(since.host_ns() != 0 ? since.host_ns() : 7);
    return out;
  }

  std::vector<std::string> taps(const Domain&) override { return {"tap0"}; }
  std::vector<Fd> interpose(const ProcessId&, const std::string&) override {
    const std::lock_guard lock(mutex_);
    swapped = true;
    return {};
  }
  void undo_interpose(const ProcessId&, const std::string&) override {
    const std::lock_guard lock(mutex_);
    swapped = false;
  }
  Fd open_memory(const ProcessId&, std::pair<std::uint64_t, std::uint64_t>) override { return Fd::memory("fake"); }

  struct ClockCall {
    std::int64_t since = 0;
    std::chrono::nanoseconds lost_max;
  };
  std::vector<ClockCall> wait_for_clocks(std::size_t count) {
    for (int i = 0; i < 2000; ++i, ::usleep(5000)) {
      const std::lock_guard lock(mutex_);
      if (clocks_.size() >= count) return clocks_;
    }
    throw Error(Code::kInternal, "the clock is not kept");
  }
  bool is_swapped() {
    const std::lock_guard lock(mutex_);
    return swapped;
  }
  void let_clocks_fail(bool fail) {
    const std::lock_guard lock(mutex_);
    clocks_fail_ = fail;
  }

  void set_process(std::optional<ProcessId> process) {
    const std::lock_guard lock(mutex_);
    domain.process = process;
  }

  std::mutex mutex_;
  Domain domain{kUuid, "s1", std::nullopt};
  bool refuses = false;
  bool breaks = false;
  bool kvm = false;
  std::vector<ClockCall> clocks_;
  bool clocks_fail_ = false;
  std::unique_ptr<FakeQemu> qemu;
  bool tracking = false;
  bool swapped = false;  // its tap
};

class GuestsTest : public ::testing::Test {
 protected:
  GuestsTest() {
    config_.run_dir = folder_.file("run");
    config_.state_dir = folder_.file("state");
    config_.worker = MHV_FAKE_WORKER;
    config_.layer_folders = {folder_.file("layers")};
    restart();
  }
  ~GuestsTest() override { guests_.reset(); }

  void restart() {
    guests_.reset();
    guests_ = std::make_unique<Guests>(config_, host_);
    guests_->load();
  }

  protocol::Reply ask(const protocol::Request& request) {
    return guests_->handle(request, {}, [&](const protocol::Reply& reply) { progress_.push_back(reply.progress().stage()); });
  }

  void attach(const std::string& guest = "s1") {
    protocol::Request request;
    request.mutable_attach()->set_guest(guest);
    request.mutable_attach()->mutable_options()->add_services("checkpoint");
    ask(request);
  }

  protocol::Reply create(const std::string& name) {
    protocol::Request request;
    request.set_id(42);
    request.mutable_checkpoint_create()->set_guest("s1");
    request.mutable_checkpoint_create()->set_name(name);
    return ask(request);
  }

  protocol::GuestStatus status() { return guests_->status("s1").guests(0); }

  // Polls: what is waited for happens in other processes.
  void wait_for_state(const std::string& state) {
    for (int i = 0; i < 2000 && status().state() != state; ++i) ::usleep(5000);
    ASSERT_EQ(status().state(), state) << status().message();
  }

  static Code code_of(const std::function<void()>& work) {
    try {
      work();
    } catch (const Error& error) {
      EXPECT_FALSE(error.hint().empty()) << error.what();
      return error.code();
    }
    return Code::kInternal;
  }

  TempFolder folder_;
  Config config_;
  FakeHypervisor host_;
  std::vector<std::string> progress_;
  std::unique_ptr<Guests> guests_;
};

}  // namespace mhv::mhvd::testing
