#include "mhvd/guest.h"

#include <fcntl.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "mhvd/guest_conf.h"
#include "mhvd/store_key.h"

namespace mhv::mhvd {

using namespace std::chrono_literals;

namespace {

constexpr auto kRespawnFirst = 100ms;
constexpr auto kRespawnLast = 5s;
constexpr auto kRespawnForgiven = 1min;
constexpr auto kAttachRetry = 2s;
constexpr auto kDetachTimeout = 10s;
constexpr auto kLastWords = 1s;
constexpr auto kFarAway = std::chrono::hours(1);
constexpr off_t kRunStateBytes = 4096;
constexpr auto kClockEvery = 100ms;
// Pauses are told from outside, and not those of moments that were given up.
constexpr auto kPauseTolerance = 50ms;
constexpr int kPauseFactor = 4;
constexpr std::size_t kAlertsMax = 1000;

// Worth another try without anything having changed.
bool passes(Code code) { return code == Code::kUnavailable || code == Code::kBusy || code == Code::kGone; }

}  // namespace

Guest::Guest(const Config& config, Hypervisor& hypervisor, LayerHost& layers, protocol::GuestConf conf)
    : config_(config),
      hypervisor_(hypervisor),
      layer_host_(layers),
      uuid_(conf.uuid()),
      respawn_delay_(kRespawnFirst),
      layers_(config, layers.users),
      taps_(hypervisor, config.taps_record_path(uuid_)),
      conf_(std::move(conf)) {
  wake_ = Fd::own(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) throw_errno("cannot make an eventfd");
  phase_ = conf_.options().services().empty() ? Phase::kDetached : Phase::kAttaching;
  thread_ = std::thread([this] { run(); });
}

Guest::~Guest() {
  begin_stop();
  thread_.join();
}

void Guest::begin_stop() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  if (worker_) worker_->close();
  changed_.notify_all();
  ::eventfd_write(wake_.get(), 1);
}

std::string Guest::label() const { return name() + " (" + uuid_ + ")"; }

void Guest::run() {
  for (;;) {
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) break;
    }
    Clock::time_point until = Clock::now() + kAttachRetry;
    try {
      until = step();
      until = std::min(until, keep_clock());
      serve_layers();
    } catch (const std::exception& error) {
      spdlog::error("guest {}: {}", label(), error.what());
    }
    wait_for_events(until);
  }
  layers_.stop_all();
  std::shared_ptr<WorkerProcess> worker;
  {
    const std::lock_guard lock(mutex_);
    worker = std::move(worker_);
  }
  worker.reset();  // waits for it: it may still need the monitor
  attachment_.reset();
}

Guest::Clock::time_point Guest::step() {
  drop_ended_worker();
  bool start, due;
  std::uint64_t looks;
  {
    const std::lock_guard lock(mutex_);
    looks = looks_wanted_;
    start = worker_wanted() && !worker_ && Clock::now() >= respawn_at_;
  }
  if (start) start_worker();
  {
    const std::lock_guard lock(mutex_);
    due = (looks_wanted_ != looks_done_ || Clock::now() >= look_at_) && (worker_ || !worker_wanted());
  }
  if (due) look_at_domain();
  if (phase() == Phase::kDetached) retire_worker();
  const std::lock_guard lock(mutex_);
  if (due || failure_) looks_done_ = looks;
  changed_.notify_all();
  if (!worker_wanted()) return look_at_;
  if (!worker_) return respawn_at_;
  return phase_ == Phase::kDetached ? std::max(asked_until_, Clock::now() + 100ms) : look_at_;
}

// With mutex_ held.
bool Guest::worker_wanted() const {
  return !conf_.options().services().empty() || attachment_ || !pending_.empty() || Clock::now() < asked_until_;
}

// The store is nobody's when this returns.
void Guest::retire_worker() {
  std::shared_ptr<WorkerProcess> worker;
  {
    const std::lock_guard lock(mutex_);
    if (worker_wanted()) return;
    worker = std::move(worker_);
  }
  if (!worker) return;
  worker.reset();
  const std::lock_guard lock(mutex_);
  worker_ended_ = false;
}

void Guest::wait_for_events(Clock::time_point until) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
  const int pidfd = attachment_ ? attachment_->pidfd.get() : failed_qemu_.get();
  std::vector<pollfd> polled{{wake_.get(), POLLIN, 0}, {pidfd, POLLIN, 0}};
  layers_.add_to(polled);
  ::poll(polled.data(), polled.size(), static_cast<int>(std::clamp<long>(left, 0, 3'600'000)));
  eventfd_t count;
  if (polled[0].revents != 0) ::eventfd_read(wake_.get(), &count);
  if (polled[1].revents != 0) {
    if (attachment_) {
      take_down("the guest's QEMU ended", false);
      undo_taps();
    }
    failed_qemu_ = {};
    poke();
  }
}

void Guest::drop_ended_worker() {
  std::shared_ptr<WorkerProcess> ended;
  {
    const std::lock_guard lock(mutex_);
    if (!worker_ended_) return;
    worker_ended_ = false;
    ended = std::move(worker_);
    ++restarts_;
    ++looks_wanted_;
    if (phase_ == Phase::kUp) phase_ = Phase::kAttaching;
    failure_ = worker_failure_;
    layer_wishes_.clear();
  }
  ended.reset();
  layers_.stop_all();
  attachment_.reset();
  taps_.taken_back();
  if (Clock::now() - spawned_at_ > kRespawnForgiven) respawn_delay_ = kRespawnFirst;
  respawn_at_ = Clock::now() + respawn_delay_;
  respawn_delay_ = std::min<Clock::duration>(respawn_delay_ * 2, kRespawnLast);
}

void Guest::start_worker() {
  spawned_at_ = Clock::now();
  try {
    const std::string path = config_.run_state_path(uuid_);
    const Fd state = Fd::open(path, O_RDWR | O_CREAT);
    if (::ftruncate(state.get(), kRunStateBytes) != 0) throw_errno("cannot size " + path);
    auto worker = std::make_shared<WorkerProcess>(
        config_.worker,
        WorkerProcess::Handlers{[this](const protocol::WorkerReport& report, std::vector<Fd> fds) { on_report(report, std::move(fds)); },
                                [this] { on_worker_end(); }});
    protocol::WorkerCommand command;
    const std::array<int, 1> fds{state.get()};
    {
      const std::lock_guard lock(mutex_);
      auto& start = *command.mutable_start();
      start.set_guest(uuid_);
      start.set_name(conf_.name());
      start.set_store_path(config_.guest_dir(uuid_));
      *start.mutable_options() = conf_.options();
      for (protocol::LayerSpec& spec : layer_specs(conf_.options())) *start.add_layers() = std::move(spec);
      if (config_.store_key) {
        const keys::Key key = guest_store_key(*config_.store_key, uuid_);
        start.set_store_key(key.bytes.data(), key.bytes.size());
      }
      start.set_refuse_plain_store(config_.refuse_plain_stores);
      worker_options_ = conf_.options();
      worker_failure_.reset();
      if (stopping_) return;
      worker_ = worker;
    }
    worker->send(command, fds);
    keys::wipe(*command.mutable_start()->mutable_store_key());
    spdlog::info("guest {}: worker {} started", label(), worker->pid());
  } catch (const Error& error) {
    respawn_at_ = Clock::now() + respawn_delay_;
    respawn_delay_ = std::min<Clock::duration>(respawn_delay_ * 2, kRespawnLast);
    failed_to_attach(error);
  }
}

void Guest::look_at_domain() {
  look_at_ = Clock::now() + kFarAway;
  Domain domain{uuid_, name(), std::nullopt};
  try {
    try {
      domain = hypervisor_.find(uuid_);
    } catch (const Error& error) {
      if (error.code() != Code::kNotFound) throw;  // else undefined: its checkpoints stay
    }
    failed_qemu_ = {};
    act_on(domain);
    const std::lock_guard lock(mutex_);
    if (attachment_) failure_.reset();
  } catch (const Error& error) {
    failed_to_attach(error);
    // libvirt may not tell: not when it was killed while it started the guest.
    if (!attachment_ && domain.process && !(failed_qemu_ = watch_process(*domain.process))) poke();
  }
}

void Guest::update_conf(const Domain& domain) {
  std::shared_ptr<WorkerProcess> worker;
  protocol::WorkerCommand command;
  {
    const std::lock_guard lock(mutex_);
    if (conf_.name() != domain.name) {
      conf_.set_name(domain.name);
      save_guest_conf(config_.guest_dir(uuid_), conf_);
    }
    if (conf_.options().SerializeAsString() == worker_options_.SerializeAsString()) return;
    worker_options_ = conf_.options();
    *command.mutable_options()->mutable_options() = conf_.options();
    for (protocol::LayerSpec& spec : layer_specs(conf_.options())) *command.mutable_options()->add_layers() = std::move(spec);
    worker = worker_;
  }
  if (worker) worker->send(command);
}

void Guest::act_on(const Domain& domain) {
  update_conf(domain);
  if (attachment_ && attachment_->process != domain.process) take_down("the guest's QEMU ended", false);
  close_held_taps(domain);  // first, whatever keeps the engine from the guest
  bool wanted;
  bool again;
  {
    const std::lock_guard lock(mutex_);
    wanted = !conf_.options().services().empty();
    again = std::exchange(hand_over_again_, false);
  }
  if (attachment_ && again && wanted) take_down("attaching again", false);
  if (!wanted) {
    if (attachment_) take_down("detached", true);
    set_phase(Phase::kDetached);
    retire_worker();
  } else if (!domain.process) {
    set_phase(Phase::kStopped);
  } else if (!attachment_) {
    bring_up(domain);
  }
  settle_taps(domain);
}

void Guest::bring_up(const Domain& domain) {
  set_phase(Phase::kAttaching);
  std::shared_ptr<WorkerProcess> worker;
  protocol::ServiceOptions options;
  {
    const std::lock_guard lock(mutex_);
    worker = worker_;
    options = conf_.options();
  }
  if (!worker) return;
  hand_over_memory(domain, *worker);
  auto fresh = std::make_unique<Attachment>(hypervisor_.attach(domain, options));
  {
    const std::lock_guard lock(mutex_);
    facts_.Clear();
    facts_.set_qemu_pid(fresh->process.pid);
    facts_.set_accelerator(fresh->up.kvm() ? "kvm" : "tcg");
    facts_.set_own_monitor(fresh->own_monitor);
    reported_.set_state("attaching");
    reported_.clear_message();
    phase_ = Phase::kUp;
    failure_.reset();
    reported_.clear_paused_us();
  }
  clock_.Clear();
  clock_paused_us_ = 0;
  clock_due_ = {};
  protocol::WorkerCommand command;
  *command.mutable_guest_up() = std::move(fresh->up);
  std::vector<int> fds;
  for (const Fd& fd : fresh->fds) fds.push_back(fd.get());
  attachment_ = std::move(fresh);
  try {
    worker->send(command, fds);
  } catch (const Error&) {
    // It has ended; what it said of why is on its way to the thread that reads its reports.
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kLastWords, [&] { return worker_ended_ || stopping_; });
    if (worker_failure_) throw Error(*worker_failure_);
    throw;
  }
  attachment_->fds.clear();
  spdlog::info("guest {}: QEMU {} handed to worker {}{}", label(), attachment_->process.pid, worker->pid(),
               attachment_->own_monitor ? "" : " (monitor through libvirt)");
  send_hold();
}

// First of all, for a QEMU that waits for a page of its memory answers nothing. Most have no need of it, so that it cannot be had
// (a device's memory is gone) does not keep the guest from being attached.
void Guest::hand_over_memory(const Domain& domain, WorkerProcess& worker) {
  std::optional<Attachment> memory;
  try {
    memory = hypervisor_.attach_memory(domain);
  } catch (const Error& error) {
    if (passes(error.code())) throw;
    spdlog::debug("guest {}: {}", label(), error.what());
  }
  if (!memory) return;
  protocol::WorkerCommand command;
  *command.mutable_memory_up() = std::move(memory->up);
  std::vector<int> fds;
  for (const Fd& fd : memory->fds) fds.push_back(fd.get());
  worker.send(command, fds);
}

// Not at once after each pause: it stops QEMU's main thread for a moment, and takes the broker a process.
Guest::Clock::time_point Guest::keep_clock() {
  constexpr Clock::time_point kNotNow = Clock::time_point::max();
  std::uint64_t paused_us;
  {
    const std::lock_guard lock(mutex_);
    paused_us = reported_.paused_us();
    if (!attachment_ || facts_.accelerator() != "kvm" || (clock_.host_ns() != 0 && paused_us == clock_paused_us_)) return kNotNow;
  }
  if (Clock::now() < clock_due_) return clock_due_;
  clock_due_ = Clock::now() + kClockEvery;
  try {
    const std::chrono::microseconds lost(paused_us - std::min(paused_us, clock_paused_us_));
    clock_ = hypervisor_.keep_clock(attachment_->process, clock_, kPauseFactor * lost + kPauseTolerance);
    if (std::exchange(clock_fails_, false)) spdlog::info("guest {}: its clock is kept again", label());
  } catch (const Error& error) {
    if (!std::exchange(clock_fails_, true)) spdlog::warn("guest {}: its clock does not get its pauses back: {}", label(), error.what());
    if (!passes(error.code())) clock_due_ = kNotNow;
    return clock_due_;
  }
  clock_paused_us_ = paused_us;
  return kNotNow;
}

void Guest::take_down(const std::string& reason, bool detach) {
  spdlog::info("guest {}: {}", label(), reason);
  protocol::WorkerCommand command;
  command.mutable_guest_down()->set_reason(reason);
  command.mutable_guest_down()->set_detach(detach);
  std::shared_ptr<WorkerProcess> worker;
  {
    const std::lock_guard lock(mutex_);
    worker = worker_;
    hold_.reset();
    phase_ = Phase::kStopped;
  }
  bool left_clean = false;
  try {
    if (worker) worker->send(command);
    std::unique_lock lock(mutex_);
    left_clean = detach && wait_for_worker_state(lock, kDetachTimeout, false);
  } catch (const Error& error) {
    spdlog::warn("guest {}: {}", label(), error.what());
  }
  layers_.stop_all();
  if (left_clean) hypervisor_.tracking_is_off(uuid_);
  attachment_.reset();
  taps_.taken_back();
  const std::lock_guard lock(mutex_);
  facts_.Clear();
  changed_.notify_all();
}

void Guest::failed_to_attach(const Error& seen) {
  Error error = seen;
  {
    const std::lock_guard lock(mutex_);
    if (worker_ended_ && worker_failure_) error = *worker_failure_;  // that a frame did not get through is only its echo
  }
  const bool again = passes(error.code());
  if (again) look_at_ = Clock::now() + kAttachRetry;
  spdlog::warn("guest {}: {}{}", label(), error.what(), again ? "; trying again" : "");
  const std::lock_guard lock(mutex_);
  failure_ = error;
  if (attachment_) return;  // libvirt is away, the worker is not
  phase_ = again ? Phase::kAttaching : Phase::kFailed;
  changed_.notify_all();
}

void Guest::set_phase(Phase phase) {
  const std::lock_guard lock(mutex_);
  phase_ = phase;
  failure_.reset();
  changed_.notify_all();
}

void Guest::on_report(const protocol::WorkerReport& report, std::vector<Fd> fds) {
  bool tracking = false;
  {
    const std::lock_guard lock(mutex_);
    if (report.has_layer_start() || report.has_layer_stop()) {
      layer_wishes_.push_back({report, std::move(fds)});
      ::eventfd_write(wake_.get(), 1);
      return;
    }
    if (report.has_alert()) {
      alerts_.push_back(report.alert());
      alerts_.back().set_number(next_alert_++);
      if (alerts_.size() > kAlertsMax) alerts_.pop_front();
      return;
    }
    if (report.has_network_wish()) {
      on_network_wish(report.network_wish());
      return;
    }
    if (report.has_status()) {
      reported_ = report.status();
      const bool same_qemu = reported_.qemu_pid() == 0 || reported_.qemu_pid() == facts_.qemu_pid();
      tracking = reported_.state() == "attached" && phase_ == Phase::kUp && same_qemu;
      if (facts_.accelerator() == "kvm") ::eventfd_write(wake_.get(), 1);  // its clock
    } else if (report.has_reply() && report.reply().id() == 0) {
      // About no request: why this worker is about to end.
      const protocol::Error& error = report.reply().error();
      if (report.reply().has_error()) worker_failure_ = Error(static_cast<Code>(error.code()), error.message(), error.hint());
    } else if (report.has_reply()) {
      const auto found = pending_.find(report.reply().id());
      if (found == pending_.end()) return;
      (report.reply().has_progress() ? found->second->progress : found->second->reply) = report.reply();
    }
    changed_.notify_all();
  }
  if (tracking) hypervisor_.tracking_is_on(uuid_);
}

void Guest::on_worker_end() {
  const std::lock_guard lock(mutex_);
  worker_ended_ = true;
  if (worker_failure_) failure_ = worker_failure_;
  for (auto& [id, pending] : pending_) {
    if (pending->reply) continue;
    pending->cannot_serve = worker_failure_;
    if (worker_failure_) continue;
    protocol::Reply reply;
    reply.mutable_error()->set_code(static_cast<std::uint32_t>(Code::kUnavailable));
    reply.mutable_error()->set_message("the worker ended in the middle; the guest runs on");
    reply.mutable_error()->set_hint("try again");
    pending->reply = std::move(reply);
  }
  changed_.notify_all();
  ::eventfd_write(wake_.get(), 1);
}

}  // namespace mhv::mhvd
